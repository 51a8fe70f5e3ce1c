"""Exports a trained model, or its backbone, as ONNX file or torch.export program.

The result takes images of any batch, height and width, and is compared with PyTorch on three sizes
before it is written. docs/export.md says what exports.
"""

import argparse
from collections.abc import Sequence

from swin_dense_cli.parsing import OneLineParser, add_config_options, run_command

FORMATS = ("onnx", "torch-export")
PARTS = ("model", "backbone")


def make_parser(prog: str | None = None) -> OneLineParser:
    """The command line."""
    parser = OneLineParser(prog=prog, description=__doc__)
    parser.add_argument("config", help="config file, or the name of a packaged config")
    parser.add_argument("checkpoint", help="weights of the config's model, or a work dir")
    parser.add_argument("--format", required=True, choices=FORMATS, help="of the file")
    parser.add_argument(
        "--part", choices=PARTS, default="model", help="the model, or its backbone alone"
    )
    parser.add_argument("--out", metavar="FILE", help="the file (CONFIG.onnx or CONFIG.pt2)")
    parser.add_argument(
        "--output",
        choices=("labels", "logits"),
        default="labels",
        help="of a segmentor: a label map, or the scores of all classes, as large as the image",
    )
    parser.add_argument(
        "--size",
        metavar="HxW",
        type=_size,
        help="of the images to trace with, in pixels (more than a window of the last stage)",
    )
    add_config_options(parser, "settings that replace those of the config")
    return parser


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) >= 32 and int(width) >= 32):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form 800x1344")
    return int(height), int(width)


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs the command; returns its exit status."""
    return run_command("export", make_parser(prog), argv)
