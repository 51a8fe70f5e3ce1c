"""Counts every row of the paper's tables 2 and 3, beside the published numbers.

tools/reproduce.py                        all rows: parameters and FLOPs
tools/reproduce.py --row cascade_swin_t   one row, also timed on a GPU, and tested if
                                          its weights and data are there
tools/reproduce.py --ablation             also tables 4 to 6
tools/reproduce.py --recipes recipes.md   instead: our configs beside the official ones
"""

from collections.abc import Sequence
from pathlib import Path

from swin_dense_cli.parsing import OneLineParser, run_command


def make_parser(prog: str | None = None) -> OneLineParser:
    """The command line."""
    parser = OneLineParser(prog=prog, description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--row", metavar="ROW", help="one row: a config's name without data set")
    parser.add_argument("--checkpoint", metavar="FILE", help="weights of the row's model")
    parser.add_argument("--data-root", metavar="DIR", help="folder of the data to test the row on")
    parser.add_argument("--tta", action="store_true", help="test several views of each image")
    parser.add_argument("--ablation", action="store_true", help="also tables 4 to 6")
    parser.add_argument(
        "--recipes", metavar="FILE", type=Path, help="only compare recipes: write a document there"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the numbers there")
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write a document there")
    parser.add_argument("--device", default="auto", help="auto (a GPU if any), cpu, cuda, cuda:N")
    return parser


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs the command; returns its exit status."""
    return run_command("reproduce", make_parser(prog), argv)
