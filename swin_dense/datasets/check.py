"""Checks of a config's data sets before a run, so that a mistake costs seconds and not an epoch."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from swin_dense import config_tree
from swin_dense.datasets.coco_file import CocoFile, read_coco
from swin_dense.datasets.label_maps import check_label_maps
from swin_dense.errors import UserError

_BOX_ONLY = (
    "to train boxes only, set masks=False in own_data, or add segmentations to the annotations"
)
_STUFF_MAPS = (
    "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/"
    "stuffthingmaps_trainval2017.zip"
)
_WITHOUT_SEMANTIC = "use a config htc_pp_without_semantic_*, which needs none"


def check_data(cfg: Any, splits: Iterable[str] = ("train", "val")) -> list[str]:
    """Check the data sets and evaluators that a run is about to use.

    Looked at: folders and annotation files exist; COCO files are complete JSON of the right form,
    hold the config's classes in its order, and something to learn from; every image is there;
    masks are there where masks are trained or evaluated, COCO-stuff's label maps where a semantic
    branch is trained; label maps of segmentors are indices below the number
    of classes, of the size of their images (a sample is read); heads have as many classes as the
    data set. Data sets of other kinds, and those on remote storage, are left alone.

    Args:
        cfg: mmengine config of a detector or segmentor, ``own_data`` already applied.
        splits: which of ``"train"``, ``"val"`` and ``"test"``.

    Returns:
        Warnings, a line each, about data that will be skipped.

    Raises:
        UserError: the run would fail, or learn or measure the wrong thing; the message names the
            file and the mend.
    """
    reader = _Reader()
    for split in splits:
        for dataset in config_tree.split_datasets(cfg, split):
            prefix = dataset.get("data_prefix") or {}
            if _is_remote(dataset):
                continue
            if "seg_map_path" in prefix:
                classes = config_tree.class_names(cfg, dataset)
                _check_root(dataset, split)
                reader.warnings += check_label_maps(cfg, dataset, len(classes))
            elif "img" in prefix and str(dataset.get("ann_file", "")).endswith(".json"):
                classes = _check_boxes(cfg, dataset, split, reader)
            else:
                continue
            _check_heads(cfg, classes, split)
    return reader.warnings


class _Reader:
    """Reads each annotation file once, however many data sets and evaluators name it."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self._files: dict[tuple[str, bool], CocoFile] = {}

    def read(self, path: Path, need_annotations: bool = True) -> CocoFile:
        key = (os.path.realpath(path), need_annotations)
        if key not in self._files:
            self._files[key] = read_coco(path, need_annotations)
            self.warnings += self._files[key].warnings
        return self._files[key]


def _check_boxes(cfg: Any, dataset: dict, split: str, reader: _Reader) -> tuple[str, ...]:
    """Check one COCO data set and the evaluators of its split; return its classes."""
    classes = config_tree.class_names(cfg, dataset)
    _check_root(dataset, split)
    evaluators = [] if split == "train" else _coco_evaluators(cfg, split)
    submitting = bool(evaluators) and all(metric.get("format_only") for metric in evaluators)
    file = reader.read(config_tree.resolve(dataset, dataset["ann_file"]), not submitting)
    _check_classes(file, classes)
    _check_images(file, config_tree.resolve(dataset, dataset["data_prefix"]["img"]))
    if split == "train":
        _check_usable(file, classes, (dataset.get("filter_cfg") or {}).get("min_size", 0))
        loads_masks = any(
            step.get("with_mask") for step in config_tree.steps(dataset.get("pipeline"))
        )
        _check_masks(file, classes, loads_masks)
        if any(step.get("with_seg") for step in config_tree.steps(dataset.get("pipeline"))):
            _check_stuff_maps(file, dataset)
    for metric in evaluators:
        if not metric.get("format_only"):
            _check_evaluator(metric, file, classes, split, reader)
    return classes


def _check_evaluator(
    metric: dict, data: CocoFile, classes: tuple[str, ...], split: str, reader: _Reader
) -> None:
    file = reader.read(Path(metric["ann_file"]))
    _check_classes(file, classes)
    _check_masks(file, classes, "segm" in (metric.get("metric") or []))
    if file.image_ids != data.image_ids:
        raise UserError(
            f"{split}_evaluator reads {file.path}, which has {len(file.image_ids)} images, but "
            f"the {split} data set reads {data.path}, which has {len(data.image_ids)} and not the "
            "same ones; set both ann_file to one file"
        )
    if file.without_iscrowd:
        raise UserError(
            f"{file.path}: {file.without_iscrowd} annotations lack iscrowd, without which COCO "
            'evaluation stops; add "iscrowd": 0 to each'
        )


def _check_root(dataset: dict, split: str) -> None:
    root = dataset.get("data_root")
    if root and not Path(root).is_dir():
        raise UserError(
            f"no data root {root} ({split} data set): put the data there, or point to it with "
            "--data-root DIR"
        )


def _check_classes(file: CocoFile, classes: tuple[str, ...]) -> None:
    names = list(file.categories.values())
    missing = [name for name in classes if name not in names]
    if missing:
        raise UserError(
            f"{file.path} lacks {len(missing)} of the config's {len(classes)} classes: "
            f"{_shortened(missing)}; it has {_shortened(names) or 'none'}. For data of your own, "
            "set own_data, which reads the classes from the file"
        )
    in_file_order = tuple(name for name in names if name in classes)
    if in_file_order != classes:
        raise UserError(
            f"{file.path} has the classes in another order than the config: labels are numbered "
            f"by the file, which starts {_shortened(list(in_file_order))}, not "
            f"{_shortened(list(classes))}; use one order in the config and in all files"
        )


def _check_images(file: CocoFile, folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"no image folder {folder}: put the images there, or correct data_prefix")
    if not file.file_names:
        raise UserError(f"{file.path} lists no images; export it again with its images")
    missing = _missing(file.file_names, folder)
    if missing:
        raise UserError(
            f"{len(missing)} of {len(file.file_names)} images of {file.path} are not in {folder}, "
            f"the first is {missing[0]}; put them there, or take them out of the file"
        )


def _check_stuff_maps(file: CocoFile, dataset: dict) -> None:
    prefix = dataset["data_prefix"].get("seg")
    if not prefix:
        raise UserError(
            "the semantic branch is trained with COCO-stuff label maps, and data_prefix names no "
            f"folder seg for them: {_WITHOUT_SEMANTIC}, or set it"
        )
    folder = config_tree.resolve(dataset, prefix)
    suffix = dataset.get("seg_map_suffix", ".png")
    missing = _missing([name.rsplit(".", 1)[0] + suffix for name in file.file_names], folder)
    if missing:
        raise UserError(
            f"{folder} lacks {len(missing)} of {len(file.file_names)} COCO-stuff label maps, with "
            f"which the semantic branch is trained, the first is {missing[0]}: unpack "
            f"{_STUFF_MAPS} into {folder.parent}, or {_WITHOUT_SEMANTIC}"
        )


def _missing(names: Iterable[str], folder: Path) -> list[str]:
    """Those of the files ``names`` (with folders, perhaps) that are not in ``folder``."""
    present: dict[str, set[str]] = {}
    missing = []
    for name in names:
        parent, base = os.path.split(name)
        if parent not in present:
            here = folder / parent
            present[parent] = {e.name for e in os.scandir(here)} if here.is_dir() else set()
        if base not in present[parent]:
            missing.append(name)
    return missing


def _check_usable(file: CocoFile, classes: tuple[str, ...], min_size: int) -> None:
    wanted = [key for key, name in file.categories.items() if name in classes]
    largest = max((file.usable.get(key, -1) for key in wanted), default=-1)
    if largest < 0:
        raise UserError(
            f"{file.path} has nothing to learn from: no annotation of "
            f"{_shortened(list(classes))} has a box inside its image that is not a crowd"
        )
    if largest < min_size:
        raise UserError(
            f"{file.path}: every image with annotations is smaller than filter_cfg.min_size "
            f"({min_size} pixels), so all would be left out; lower "
            "train_dataloader.dataset.filter_cfg.min_size"
        )


def _check_masks(file: CocoFile, classes: tuple[str, ...], needed: bool) -> None:
    wanted = [key for key, name in file.categories.items() if name in classes]
    maskless = sum(file.maskless[key] for key in wanted)
    if needed and maskless:
        raise UserError(
            f"{file.path}: {maskless} annotations have a box but no segmentation, and the config "
            f"trains or evaluates masks; {_BOX_ONLY}"
        )


def _check_heads(cfg: Any, classes: tuple[str, ...], split: str) -> None:
    for name, head in config_tree.class_heads(cfg["model"]):
        if head["num_classes"] != len(classes):
            raise UserError(
                f"{name}.num_classes is {head['num_classes']}, but the {split} data set has "
                f"{len(classes)} classes ({_shortened(list(classes))}); set it to {len(classes)}, "
                "or let own_data set it"
            )


def _coco_evaluators(cfg: Any, split: str) -> list[dict]:
    return [
        metric
        for metric in config_tree.split_evaluators(cfg, split)
        if str(metric.get("type", "")).rpartition(".")[2].startswith("Coco")
        and str(metric.get("ann_file") or "").endswith(".json")
        and "://" not in metric["ann_file"]
    ]


def _is_remote(dataset: dict) -> bool:
    paths = [dataset.get("data_root"), dataset.get("ann_file")]
    return any("://" in str(path) for path in paths)


def _shortened(names: list[str], limit: int = 5) -> str:
    return ", ".join(map(str, names[:limit])) + (", ..." if len(names) > limit else "")
