"""Converts Swin weights between the layouts of OpenMMLab, the authors, timm, HF, torchvision."""

import sys

from swin_dense_cli.convert_checkpoint import main

if __name__ == "__main__":
    sys.exit(main())
