"""``python -m swin_dense_cli``, as ``swin-dense``."""

import sys

from swin_dense_cli.main import main

if __name__ == "__main__":
    sys.exit(main())
