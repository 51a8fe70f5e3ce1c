"""Counts every row of the paper's tables 2 and 3, beside the published numbers."""

import sys

from swin_dense_cli.reproduce import main

if __name__ == "__main__":
    sys.exit(main())
