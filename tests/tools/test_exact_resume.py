"""A training that is resumed ends as one that was never stopped, bit for bit."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exact_training import EXACT, differences, run_training

from swin_dense.errors import UserError

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def whole(shapes_root, tmp_path_factory) -> Callable[[str], Path]:
    """The work dir of a training of a kind that was not stopped."""

    @functools.cache
    def work_dir(kind: str) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        run_training(kind, shapes_root, folder, seed=3)
        return folder

    return work_dir


def checkpoint(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize(
    ("kind", "saved", "options"),
    [
        ("detector", "iter_3", {}),  # in an epoch, and half of the batches of a step
        ("detector", "iter_4", {"train_dataloader.num_workers": 2}),  # before the epoch's hooks
        ("detector", "epoch_1", {}),  # before the epoch's evaluation
        ("detector", "4", {}),  # the same, counted in iterations
        ("segmentor", "iter_2", {}),  # before an evaluation
        ("segmentor", "iter_3", {"train_dataloader.num_workers": 2}),
        ("segmentor", "iter_3", {"train_cfg.val_interval": 99}),
    ],
)
def test_weights_and_states_are_those_of_one_run(
    kind, saved, options, whole, shapes_root, tmp_path
):
    """With other numbers of workers and evaluations too; the seed is the checkpoint's."""
    first = whole(kind)
    run_training(kind, shapes_root, tmp_path, options, resume=str(first / f"{saved}.pth"))
    expected, found = checkpoint(first / "last.pth"), checkpoint(tmp_path / "last.pth")
    for part in EXACT:
        assert not differences(expected[part], found[part], part)
    assert differences(checkpoint(first / f"{saved}.pth")["optimizer"], found["optimizer"])
    assert found["meta"]["iter"] == expected["meta"]["iter"]
    if not any("val_interval" in option for option in options):
        (metrics,) = tmp_path.glob("*/metrics.json")
        (all_metrics,) = first.glob("*/metrics.json")
        assert json.loads(metrics.read_text()) == json.loads(all_metrics.read_text())
        assert not differences(expected["meta"]["training"], found["meta"]["training"])


def test_what_is_not_exact_is_said(whole, shapes_root, tmp_path, capsys):
    """In one line: another size of batches, a checkpoint of another tool, a damaged one."""
    saved = whole("segmentor") / "iter_3.pth"
    options = {"train_cfg.max_iters": 4, "train_dataloader.batch_size": 4}
    run_training("segmentor", shapes_root, tmp_path / "a", options, resume=str(saved), seed=4)
    lines = capsys.readouterr().out.splitlines()
    assert "resuming is not exact: images per process were 2, are 4" in lines
    assert "continuing with seed 3, that of the checkpoint, not with 4" in lines

    content = checkpoint(saved)
    del content["meta"]["training"], options["train_dataloader.batch_size"]
    torch.save(content, tmp_path / "other.pth")
    other = str(tmp_path / "other.pth")
    run_training("segmentor", shapes_root, tmp_path / "b", options, resume=other)
    line = f"resuming is not exact: {other} does not tell how its training drew random numbers"
    assert line in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    "damage", [{"batches": "x"}, {"gradients": [{"no": 0}]}, {"early_stopping": 3}]
)
def test_damaged_state_is_one_line(damage, whole, shapes_root, tmp_path):
    content = checkpoint(whole("detector") / "iter_3.pth")
    content["meta"]["training"] |= damage
    file = tmp_path / "damaged.pth"
    torch.save(content, file)
    with pytest.raises(UserError, match=r"damaged\.pth cannot be resumed"):
        run_training("detector", shapes_root, tmp_path / "out", resume=str(file))


def test_two_processes(python, shapes_root, tmp_path):
    """Each goes on with its own batches and gradients; the log has the mean of their losses."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    python(*torchrun, str(HERE / "exact_training.py"), str(shapes_root), str(tmp_path))
    expected, found = (checkpoint(tmp_path / name / "last.pth") for name in ("whole", "resumed"))
    for part in EXACT:
        assert not differences(expected[part], found[part], part)
    own = [json.loads((tmp_path / f"losses{rank}.json").read_text()) for rank in (0, 1)]
    (scalars,) = tmp_path.glob("whole/*/vis_data/scalars.json")
    logged = [
        one["loss"] for one in map(json.loads, scalars.read_text().splitlines()) if "loss" in one
    ]
    assert len(logged) == len(own[0])
    assert not np.allclose(own[0], own[1])
    np.testing.assert_allclose(logged, np.mean(own, axis=0), rtol=1e-6)
