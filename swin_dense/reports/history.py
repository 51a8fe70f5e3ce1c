"""What the runs in a work dir have left: losses, evaluations, predictions, how they were run."""

import json
import math
import platform
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from swin_dense import __version__
from swin_dense.errors import UserError

KEPT = "report"  # the folder, within that of a run's log, of what its report needs
_PACKAGES = ("mmengine", "mmdet", "mmsegmentation", "mmcv", "mmcv-lite", "torchvision", "numpy")


@dataclass
class History:
    """The trainings of a work dir as one: a resumed one continues the one before it.

    Attributes:
        work_dir: the folder.
        folders: of the runs' logs, oldest first.
        steps: what was logged in training, by ``step``: losses, ``lr`` and more.
        evaluations: as in ``metrics.json``: ``epoch``, ``iter`` and ``metrics``.
        runs: what :func:`describe_run` wrote, oldest first.
    """

    work_dir: Path
    folders: list[Path]
    steps: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def config(self) -> Path | None:
        """The config of the newest training."""
        for folder in reversed(self.folders):
            if found := sorted(folder.glob("*.py")):
                return found[0]
        return next(iter(sorted(self.work_dir.glob("*.py"))), None)

    @property
    def predictions(self) -> Path | None:
        """The predictions of the last evaluation."""
        kept = [folder / KEPT / "predictions.npz" for folder in self.folders]
        return next((path for path in reversed(kept) if path.is_file()), None)

    @property
    def batches(self) -> list[Path]:
        """Pictures of the first batches of the newest training that has any."""
        for folder in reversed(self.folders):
            if found := sorted((folder / KEPT).glob("batch_*.jpg")):
                return found
        return []


def read_history(work_dir: str | Path) -> History:
    """Reads what is in a work dir; tests in it do not count.

    Raises:
        UserError: no training has logged anything there.
    """
    work_dir = Path(work_dir)
    if not work_dir.is_dir():
        raise UserError(f"no such work dir: {work_dir}")
    logs = sorted(path.parents[1] for path in work_dir.glob("*/vis_data/scalars.json"))
    history = History(work_dir, [])
    for folder in logs:
        steps = [one for one in _lines(folder / "vis_data" / "scalars.json") if "lr" in one]
        if not steps:
            continue
        history.folders.append(folder)
        # A training that starts again at a step replaces what was logged from there on.
        first = min(one["step"] for one in steps)
        history.steps = [one for one in history.steps if one["step"] < first] + steps
        history.evaluations = [one for one in history.evaluations if one["iter"] < first]
        known = {one["iter"] for one in history.evaluations}
        for one in _json(folder / "metrics.json") or []:
            if "iter" in one and one["iter"] not in known:
                history.evaluations.append(one)
        if run := _json(folder / KEPT / "run.json"):
            history.runs.append(run)
    if not history.folders and any(work_dir.glob(f"*/{KEPT}/run.json")):
        raise UserError(f"{work_dir}: its training has not logged a step yet, so it tells nothing")
    if not history.folders:
        raise UserError(
            f"{work_dir} has no log of a training: give the work dir of one, "
            "or the .pkl file of tools/test.py --out"
        )
    return history


def describe_run(device: str, processes: int, parameters: Sequence[int]) -> dict[str, Any]:
    """How a training is run, for its report: command, versions, machine.

    Args:
        device: of the model.
        processes: how many train together.
        parameters: how many the model has, and how many are trained.
    """
    versions = {"python": platform.python_version(), "swin_dense": __version__}
    versions["torch"] = torch.__version__
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    gpu = torch.cuda.get_device_name() if device.startswith("cuda") else None
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "device": gpu or f"CPU, {torch.get_num_threads()} threads",
        "processes": processes,
        "parameters": parameters[0],
        "trained_parameters": parameters[1],
        "platform": platform.platform(),
        "versions": versions,
    }


def loss_parts(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of the losses that add up to ``loss``."""
    names = dict.fromkeys(key for one in steps for key in one)
    return [name for name in names if "loss" in name and name != "loss"]


def series(steps: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one of the logged numbers, those that are finite."""
    points = [
        (one["step"], float(one[name]))
        for one in steps
        if isinstance(one.get(name), int | float) and math.isfinite(one[name])
    ]
    return [step for step, _ in points], [value for _, value in points]


def main_metrics(evaluations: Sequence[Mapping[str, Any]]) -> list[str]:
    """The metrics that curves show: mAP, mAP_50 of boxes and masks, or mIoU, aAcc and mAcc."""
    names = dict.fromkeys(key for one in evaluations for key in one["metrics"])
    wanted = ("bbox_mAP", "segm_mAP", "bbox_mAP_50", "segm_mAP_50", "mIoU", "mAcc", "aAcc", "mAP")
    chosen = [name for last in wanted for name in names if name.rpartition("/")[2] == last]
    return chosen or list(names)[:4]


def short_name(metric: str) -> str:
    """``bbox_mAP`` for ``coco/bbox_mAP``, ``teacher/bbox_mAP`` for ``teacher/coco/bbox_mAP``."""
    return metric.replace("coco/", "")


def metric_series(
    evaluations: Sequence[Mapping[str, Any]], name: str
) -> tuple[list[int], list[float]]:
    """Iterations and values of a metric, where it has one (COCO writes -1 where it has none)."""
    records = [{"step": one["iter"], **one["metrics"]} for one in evaluations]
    steps, values = series(records, name)
    kept = [(step, value) for step, value in zip(steps, values, strict=True) if value != -1]
    return [step for step, _ in kept], [value for _, value in kept]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except ValueError:  # cut off, as the process was killed
            continue


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None
