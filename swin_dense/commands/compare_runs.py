"""``tools/compare_runs.py``: trainings side by side."""

import argparse
from pathlib import Path

from swin_dense.engine.paths import make_output_dir, output_errors
from swin_dense.engine.terminal.console import console, notify_user, quiet_terminal
from swin_dense.engine.terminal.tables import terminal_table
from swin_dense.reports.comparison import NOTE, compare_runs


def run(args: argparse.Namespace) -> None:
    """Shows the table and writes the page.

    Raises:
        UserError: a folder is no work dir of a training, or the page cannot be written.
    """
    out = Path(args.out)
    with quiet_terminal(), output_errors({"--out": out.parent}):
        comparison = compare_runs(args.work_dirs)
        make_output_dir(out.parent, "--out")
        comparison.page().write(out)
        console().print(terminal_table(*comparison.table(), caption=NOTE))
        notify_user(f"curves and differences of the configs: {out}")
