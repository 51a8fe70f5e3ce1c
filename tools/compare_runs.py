"""Compares trainings: a table, and an HTML page with their curves side by side."""

import sys

from swin_dense_cli.compare_runs import main

if __name__ == "__main__":
    sys.exit(main())
