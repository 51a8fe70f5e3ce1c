"""Converts a data set to COCO files or label maps of class indices, which own_data reads.

Known are YOLO (data.yaml; boxes and polygons), Pascal VOC, Roboflow's exports, COCO files in any
usual layout, and folders of label maps in any usual layout: indices, palettes or colours.
"""

from argparse import Namespace
from collections.abc import Sequence

from swin_dense_cli.parsing import OneLineParser, run_tool


def make_parser(prog: str | None = None) -> OneLineParser:
    """The command line."""
    parser = OneLineParser(prog=prog, description=__doc__)
    parser.add_argument("source", metavar="SRC", help="folder of the data set, or its data.yaml")
    parser.add_argument("target", metavar="DST", help="a new folder")
    parser.add_argument("--copy", action="store_true", help="copy the images instead of a link")
    parser.add_argument(
        "--classes", nargs="+", metavar="NAME", help="class names in the order that they shall have"
    )
    parser.add_argument(
        "--label-maps",
        action="store_true",
        help="convert label maps also where there are boxes, as in Pascal VOC",
    )
    return parser


def run(args: Namespace) -> None:
    """Converts."""
    from swin_dense.commands.convert_data import convert_data

    convert_data(**vars(args))


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs the command; returns its exit status."""
    return run_tool(make_parser(prog), run, argv)
