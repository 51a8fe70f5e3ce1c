"""Writes a report of a training, or of a test's predictions: one HTML file.

tools/report.py WORK_DIR    of the trainings in a work dir: WORK_DIR/report.html
tools/report.py FILE.pkl    of what tools/test.py --out FILE.pkl saved: FILE.html
"""

from collections.abc import Sequence

from swin_dense_cli.parsing import OneLineParser, run_command


def make_parser(prog: str | None = None) -> OneLineParser:
    """The command line."""
    summary, _, usage = (__doc__ or "").partition("\n")
    parser = OneLineParser(prog=prog, description=summary, epilog=" ".join(usage.split()))
    parser.add_argument("source", metavar="WORK_DIR|FILE", help="a work dir, or predictions")
    parser.add_argument("--config", help="config of the predictions (FILE.config.py)")
    parser.add_argument("--data-root", metavar="DIR", help="folder of the data")
    parser.add_argument("--out", metavar="FILE", help="where the report goes")
    parser.add_argument(
        "--pictures", type=int, default=6, help="best images that are shown, and worst ones (6)"
    )
    return parser


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs the command; returns its exit status."""
    return run_command("report", make_parser(prog), argv)
