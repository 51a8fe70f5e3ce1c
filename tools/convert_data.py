"""Converts a data set to COCO files or label maps of class indices, which own_data reads."""

import sys

from swin_dense_cli.convert_data import main

if __name__ == "__main__":
    sys.exit(main())
