"""Compares trainings: a table, and an HTML page with their curves side by side."""

from collections.abc import Sequence

from swin_dense_cli.parsing import OneLineParser, run_command


def make_parser(prog: str | None = None) -> OneLineParser:
    """The command line."""
    parser = OneLineParser(prog=prog, description=__doc__)
    parser.add_argument("work_dirs", nargs="+", metavar="WORK_DIR", help="two trainings or more")
    parser.add_argument(
        "--out", metavar="FILE", default="comparison.html", help="the page (comparison.html)"
    )
    return parser


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs the command; returns its exit status."""
    return run_command("compare_runs", make_parser(prog), argv)
