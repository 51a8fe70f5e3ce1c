"""Compares OpenMMLab's Swin with ours in configs: names, optimizer groups, feature maps."""

import sys

from swin_dense_cli.compare_swap import main

if __name__ == "__main__":
    sys.exit(main())
