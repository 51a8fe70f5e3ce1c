"""What our runner does otherwise than mmengine's."""

import time
from pathlib import Path

import pytest
from torch import nn

from swin_dense.engine.runner import Runner


def test_runs_in_the_same_second_have_logs_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)  # mmengine names a run by the second
    runs = [
        Runner(nn.Linear(1, 1), str(tmp_path / name), experiment_name="same") for name in ("a", "b")
    ]
    for run in runs:
        run.logger.info(f"this is {run.work_dir}")
    logs = [Path(run.logger.log_file).read_text() for run in runs]
    for run, log in zip(runs, logs, strict=True):
        assert Path(run.logger.log_file).is_relative_to(run.work_dir)
        assert [f"this is {other.work_dir}" in log for other in runs] == [r is run for r in runs]
