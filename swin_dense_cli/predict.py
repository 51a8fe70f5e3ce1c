"""Predicts on an image or a folder: pictures of the predictions, and predictions.json."""

import sys
from argparse import Namespace
from collections.abc import Sequence

from swin_dense_cli.parsing import OneLineParser, build_parser, run_tool

_EPILOG = (
    "Images that cannot be read are skipped and listed on stderr; the exit status is 2 only when "
    "none can be read."
)


def make_parser(prog: str | None = None) -> OneLineParser:
    """The command line."""
    parser = build_parser(__doc__, prog, _EPILOG)
    parser.add_argument(
        "checkpoint",
        help="weights of the config's model: a file, a URL, or a work dir, for its best.pth",
    )
    parser.add_argument("images", help="an image, or a folder of images")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the results")
    parser.add_argument(
        "--score-thr", type=float, default=0.3, help="lowest score of a detection (0.3)"
    )
    parser.add_argument("--batch-size", type=int, default=1, help="images per batch (1)")
    return parser


def run(args: Namespace) -> None:
    """Predicts, and reports the images that cannot be read."""
    from swin_dense.engine.predict_files import predict

    document = predict(**vars(args))
    for entry in document["skipped"]:
        print(f"skipped {entry['file']}: {entry['reason']}", file=sys.stderr)


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs the command; returns its exit status."""
    return run_tool(make_parser(prog), run, argv)
