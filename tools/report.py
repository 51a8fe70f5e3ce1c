"""Writes a report of a training, or of a test's predictions: one HTML file."""

import sys

from swin_dense_cli.report import main

if __name__ == "__main__":
    sys.exit(main())
