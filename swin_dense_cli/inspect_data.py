"""Checks a data set as a training would, and writes a page that shows what is in it.

The page, index.html, has histograms of classes and sizes, pictures with their labels as they are
loaded and as they are augmented, and what looks like a mistake: objects that are tiny, huge,
outside or labelled twice, images that are there twice, and those of training in validation.
"""

from argparse import Namespace
from collections.abc import Sequence

from swin_dense_cli.parsing import OneLineParser, add_config_options, run_tool


def make_parser(prog: str | None = None) -> OneLineParser:
    """The command line."""
    parser = OneLineParser(prog=prog, description=__doc__)
    parser.add_argument(
        "source",
        metavar="CONFIG|DIR",
        help="a config, or a folder with a data set in a format that own_data recognises",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the page")
    parser.add_argument("--data-root", help="folder of the data, for every data set of the config")
    parser.add_argument(
        "--classes", nargs="+", metavar="NAME", help="of label maps in DIR, if no file names them"
    )
    parser.add_argument("--samples", type=int, default=12, help="pictures of each kind (12)")
    parser.add_argument("--seed", type=int, default=0, help="which pictures, augmented how (0)")
    add_config_options(parser, "settings that replace those of the config")
    return parser


def run(args: Namespace) -> None:
    """Inspects."""
    from swin_dense.commands.inspect_data import inspect_data

    inspect_data(**vars(args))


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs the command; returns its exit status."""
    return run_tool(make_parser(prog), run, argv)
