"""Generates the shapes data set that the demo configs train on."""

import sys

from swin_dense_cli.make_shapes import main

if __name__ == "__main__":
    sys.exit(main())
