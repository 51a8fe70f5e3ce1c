"""Tests a checkpoint of a detector or a segmentor on the config's test data."""

import sys

from swin_dense_cli.test import main

if __name__ == "__main__":
    sys.exit(main())
