"""Predicts on images and videos: pictures of the predictions, and predictions.json."""

import sys

from swin_dense_cli.predict import main

if __name__ == "__main__":
    sys.exit(main())
