"""Measures speed and memory against other implementations, with the same weights."""

import sys

from swin_dense_cli.benchmark import main

if __name__ == "__main__":
    sys.exit(main())
