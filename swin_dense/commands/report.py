"""``tools/report.py``: the report of a training or of predictions."""

import argparse
from pathlib import Path

from swin_dense.engine.paths import make_output_dir, output_errors
from swin_dense.engine.terminal.console import notify_user, quiet_terminal
from swin_dense.errors import UserError
from swin_dense.reports.run_report import report_on_predictions, report_on_run


def run(args: argparse.Namespace) -> None:
    """Writes the report.

    Raises:
        UserError: there is nothing to report on, or the file cannot be written.
    """
    source = Path(args.source)
    of_run = source.is_dir()
    out = Path(args.out or (source / "report.html" if of_run else source.with_suffix(".html")))
    with quiet_terminal(), output_errors({"--out": out.parent}):
        if not source.exists():
            raise UserError(f"no such work dir or file of predictions: {source}")
        if not of_run and source.suffix != ".pkl":
            raise UserError(
                f"{source} is no .pkl file: a report compares predictions with labels, so test on "
                "labelled images with tools/test.py CONFIG CHECKPOINT --out FILE.pkl"
            )
        if of_run and args.config:
            raise UserError(
                f"--config is for files of predictions; {source} has its own: remove it"
            )
        beside = source.with_suffix(".config.py")  # of tools/test.py
        config = args.config or beside
        if not of_run and config == beside and not beside.is_file():
            raise UserError(f"{beside} is gone: give the --config whose predictions these are")
        make_output_dir(out.parent, "--out")
        options = {"data_root": args.data_root, "pictures": args.pictures}
        if of_run:
            page = report_on_run(source, **options)
        else:
            page = report_on_predictions(source, config, **options)
        page.write(out)
        notify_user(f"report: {out}")
