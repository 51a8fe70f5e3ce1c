"""What our runner does otherwise than mmengine's."""

import time
from pathlib import Path

import pytest
import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmengine.config import Config
from mmseg.models.data_preprocessor import SegDataPreProcessor
from torch import nn

from swin_dense.analysis.building import random_batch
from swin_dense.benchmarks.waits import WaitCounter
from swin_dense.engine.runner import Runner, copy_ahead


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


@pytest.mark.parametrize("scope", ["mmdet", "mmseg"])
def test_batches_are_copied_without_waiting(scope):
    if scope == "mmdet":
        preprocessor = DetDataPreprocessor(mean=[0.0] * 3, std=[1.0] * 3)
    else:
        preprocessor = SegDataPreProcessor(mean=[0.0] * 3, std=[1.0] * 3, size=(32, 32))
    preprocessor.to("cpu:0")  # stands for a GPU
    waits = []
    for prepare in (lambda _: None, copy_ahead):
        prepare(preprocessor)
        batch = random_batch(Config({"default_scope": scope}), (32, 32), 2)
        with WaitCounter() as counter:
            counter.belongs_to_host(batch["inputs"])
            for sample in batch["data_samples"]:
                counter.belongs_to_host([part.values() for part in sample.values()])
            preprocessor(batch, training=True)
        waits.append(sum(n for w, n in counter.waits.items() if w.call == "copy to the device"))
    images, targets = 2, {"mmdet": 3, "mmseg": 1}[scope]  # boxes, labels, label map
    assert waits == [images + 2 * targets, 0]


def test_tf32(tmp_path):
    """``env_cfg`` turns it on; without it nothing changes."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    try:
        for env in ({}, {"tf32": True}):
            matmul.allow_tf32 = False
            Runner(nn.Linear(1, 1), str(tmp_path), env_cfg=env, cfg={"device": "cpu"})
            assert matmul.allow_tf32 is bool(env)
    finally:
        matmul.allow_tf32 = before
