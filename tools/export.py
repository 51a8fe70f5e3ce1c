"""Exports a trained model, or its backbone, as ONNX file or torch.export program."""

import sys

from swin_dense_cli.export import main

if __name__ == "__main__":
    sys.exit(main())
