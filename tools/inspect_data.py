"""Checks a data set as a training would, and writes a page that shows what is in it."""

import sys

from swin_dense_cli.inspect_data import main

if __name__ == "__main__":
    sys.exit(main())
