"""Predicts on images and videos: pictures of the predictions, and predictions.json."""

import sys
from argparse import Namespace
from collections.abc import Sequence

from swin_dense_cli.parsing import OneLineParser, build_parser, run_tool

FORMATS = ["json", "coco"]
_EPILOG = (
    "What cannot be read, and files of other kinds in a folder, are skipped and listed on stderr; "
    "the exit status is 2 only when nothing can be read. docs/prediction.md describes the results."
)
_LISTED = 20  # more skipped files than these are in the JSON alone


def make_parser(prog: str | None = None) -> OneLineParser:
    """The command line."""
    parser = build_parser(__doc__, prog, _EPILOG)
    parser.add_argument(
        "checkpoint",
        help="weights of the config's model: a file, a URL, or a work dir, for its best.pth",
    )
    parser.add_argument(
        "images",
        nargs="+",
        help="images, videos, folders of them, patterns ('photos/**/*.jpg'), text files (.txt) "
        "with one of these on each line, http(s) URLs",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the results")
    parser.add_argument(
        "--score-thr",
        type=float,
        help="lowest score of a detection (0.3; results in COCO's format have all by default)",
    )
    parser.add_argument("--batch-size", type=int, default=1, help="images per batch (1)")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="json",
        help="of predictions.json: ours (json), or a list of COCO results, with images.json beside",
    )
    parser.add_argument(
        "--ann-file",
        metavar="FILE",
        help="COCO annotation file that has the ids of the images and categories (--format coco); "
        "without it, images are numbered",
    )
    return parser


def run(args: Namespace) -> None:
    """Predicts, and reports what was skipped."""
    from swin_dense.engine.predict_files import predict

    document = predict(**vars(args))
    skipped = [*document["skipped"], *document["other_files"]]
    for entry in skipped[:_LISTED]:
        print(f"skipped {entry['file']}: {entry['reason']}", file=sys.stderr)
    if len(skipped) > _LISTED:
        name = "images.json" if args.format == "coco" else "predictions.json"
        print(
            f"skipped {len(skipped) - _LISTED} more: {args.out}/{name} lists all", file=sys.stderr
        )


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs the command; returns its exit status."""
    return run_tool(make_parser(prog), run, argv)
