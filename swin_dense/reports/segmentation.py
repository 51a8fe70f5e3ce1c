"""What label maps are worth: IoU by class, confusions, and the score of each image."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS, TRANSFORMS, init_default_scope
from numpy.typing import NDArray

from swin_dense.config_tree import class_names, split_datasets, split_evaluators
from swin_dense.errors import UserError
from swin_dense.reports.predictions import Record, label_map_of


@dataclass
class MapScore:
    """How well an image was predicted: mean IoU of the classes in it, and correct pixels."""

    index: int
    iou: float
    accuracy: float


class MapTruth:
    """The label maps of the images that were predicted.

    Attributes:
        classes: names by label.
        palette: an RGB colour for each, or None.
        ignored: the value of pixels that do not count.

    Raises:
        UserError: the images are others than those of the config.
    """

    def __init__(self, cfg: Config, split: str, records: Sequence[Record]) -> None:
        init_default_scope("mmseg")
        settings = list(split_datasets(cfg, split))
        self.classes = class_names(cfg, settings[0])
        evaluators = split_evaluators(cfg, split)
        self.ignored = next((one.get("ignore_index", 255) for one in evaluators), 255)
        self.palette: Any = None
        self._infos: dict[str, Mapping[str, Any]] = {}
        self._loads: dict[str, Any] = {}
        for one in settings:
            dataset = DATASETS.build({**one, "pipeline": [], "test_mode": True})
            self.palette = dataset.metainfo.get("palette")
            load = _label_loading(one)
            for index in range(len(dataset)):
                info = dataset.get_data_info(index)
                self._infos[_key(info["img_path"])] = info
                self._loads[_key(info["img_path"])] = load
        missing = [one for one in records if _key(one["img_path"]) not in self._infos]
        if missing:
            raise UserError(
                f"{len(missing)} of {len(records)} predicted images are not in the {split} data of "
                "the config: give the config, and --data-root, of these predictions"
            )

    def label_map(self, record: Record) -> NDArray:
        """The true labels (H, W) of a record's image."""
        key = _key(record["img_path"])
        info = {**self._infos[key], "seg_fields": []}
        return self._loads[key](info)["gt_seg_map"]


def _key(path: str) -> str:
    return str(Path(path).resolve())


def _label_loading(dataset: Mapping[str, Any]) -> Any:
    for step in dataset["pipeline"]:
        if str(step.get("type")).rpartition(".")[2] == "LoadAnnotations":
            return TRANSFORMS.build(step)
    raise UserError(
        "the pipeline of the evaluation has no LoadAnnotations: nothing to compare with"
    )


def compare_maps(truth: MapTruth, records: Sequence[Record]) -> Iterator[NDArray]:
    """The confusion matrix of each image: pixels by true class (rows) and predicted class."""
    count = len(truth.classes)
    for record in records:
        actual, predicted = truth.label_map(record), label_map_of(record)
        if actual.shape != predicted.shape:
            raise UserError(
                f"{record['img_path']}: its label map has {actual.shape[1]} x {actual.shape[0]} "
                f"pixels, the prediction {predicted.shape[1]} x {predicted.shape[0]}"
            )
        counts = (actual != truth.ignored) & (actual < count) & (predicted < count)
        pairs = actual[counts].astype(np.int64) * count + predicted[counts]
        yield np.bincount(pairs, minlength=count * count).reshape(count, count)


def class_ious(table: NDArray) -> tuple[NDArray, NDArray]:
    """IoU and accuracy (recall) of each class, nan for one that is nowhere."""
    hits, actual = np.diag(table).astype(float), table.sum(1)
    union = actual + table.sum(0) - hits
    with np.errstate(invalid="ignore", divide="ignore"):
        return hits / union, hits / actual


def score_map(index: int, table: NDArray) -> MapScore:
    """The score of an image, from its confusion matrix."""
    ious, total = class_ious(table)[0], max(int(table.sum()), 1)
    mean = float(np.nanmean(ious)) if np.isfinite(ious).any() else 0.0
    return MapScore(index, mean, float(np.trace(table)) / total)
