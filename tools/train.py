"""Trains a detector or a segmentor from a config of mmdet's or mmseg's kind."""

import sys

from swin_dense_cli.train import main

if __name__ == "__main__":
    sys.exit(main())
