"""Tests a checkpoint of a detector or a segmentor on the config's test data."""

from argparse import Namespace
from collections.abc import Sequence

from swin_dense_cli.parsing import OneLineParser, add_run_arguments, build_parser, run_tool


def make_parser(prog: str | None = None) -> OneLineParser:
    """The command line."""
    parser = build_parser(__doc__, prog)
    parser.add_argument(
        "checkpoint",
        help="weights of the config's model: a file, a URL, or a work dir, for its best.pth",
    )
    add_run_arguments(parser)
    parser.add_argument(
        "--out",
        help="save the predictions: a .pkl file or, for segmentation, a folder of label maps",
    )
    parser.add_argument("--show-dir", help="folder for pictures of ground truth and prediction")
    parser.add_argument(
        "--score-thr",
        type=float,
        default=0.3,
        help="lowest score of drawn detections (0.3)",
    )
    parser.add_argument(
        "--tta",
        action="store_true",
        help="test-time augmentation: predict several views of each image and merge them",
    )
    return parser


def run(args: Namespace) -> None:
    """Tests."""
    from swin_dense.engine.test import evaluate

    evaluate(**vars(args))


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs the command; returns its exit status."""
    return run_tool(make_parser(prog), run, argv)
