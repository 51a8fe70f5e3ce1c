"""Checks of a config's data sets before a run, so that a mistake costs seconds and not an epoch."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from swin_dense import config_tree
from swin_dense.datasets.coco_file import CocoFile, read_coco
from swin_dense.datasets.image_files import UnreadableImageError, image_sizes
from swin_dense.datasets.label_maps import check_label_maps, missing_files
from swin_dense.datasets.names import shortened
from swin_dense.errors import UserError

_STUFF_MAPS = (
    "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/"
    "stuffthingmaps_trainval2017.zip"
)
_WITHOUT_SEMANTIC = "use a config htc_pp_without_semantic_*, which needs none"


def check_data(cfg: Any, splits: Iterable[str] = ("train", "val")) -> list[str]:
    """Check the data sets and evaluators that a run is about to use.

    Checked are: folders and annotation files exist; COCO files are complete JSON of the right
    form, have the config's classes in its order, and annotations to train on; every image exists,
    can be opened and has the size that the file says; there are masks that can be drawn where masks
    are trained or evaluated, and COCO-stuff label maps where a semantic branch is trained; label
    maps of segmentors are indices below the number of classes, of the size of their images (a
    sample is read); heads have as many classes as the data set. Images that are trained on without
    labels need no annotations. Other kinds of data sets, and those
    on remote storage, are not checked.

    Args:
        cfg: mmengine config of a detector or segmentor, ``own_data`` already applied. With its
            ``skip_bad_images``, images that cannot be trained on are a warning.
        splits: which of ``"train"``, ``"val"`` and ``"test"``.

    Returns:
        Warnings, a line each, about data that will be skipped.

    Raises:
        UserError: the run would fail, or train or evaluate on the wrong data; the message names
            the file and the fix.
    """
    files, warnings = _CocoFiles(), []
    for split in splits:
        for dataset in config_tree.split_datasets(cfg, split):
            prefix = dataset.get("data_prefix") or {}
            has_label_maps = "seg_map_path" in prefix
            is_coco = "img" in prefix and str(dataset.get("ann_file", "")).endswith(".json")
            is_remote = "://" in f"{dataset.get('data_root')} {dataset.get('ann_file')}"
            if is_remote or not (has_label_maps or is_coco):
                continue
            _check_root(dataset, split)
            classes = config_tree.class_names(cfg, dataset)
            if has_label_maps:
                skips = split == "train" and bool(cfg.get("skip_bad_images"))
                warnings += check_label_maps(cfg, dataset, classes, skips)
            else:
                warnings += _check_coco(cfg, dataset, classes, split, files)
            _check_heads(cfg, classes, split)
    warnings += [warning for file in files.values() for warning in file.warnings]
    return list(dict.fromkeys(warnings))


class _CocoFiles(dict[tuple[Path, bool], CocoFile]):
    """Annotation files by path and ``need_annotations`` of :func:`read_coco`, each read once."""

    def __missing__(self, key: tuple[Path, bool]) -> CocoFile:
        self[key] = read_coco(*key)
        for missing in self[key].incomplete.values():
            raise self[key].error(
                f"{missing}: COCO format requires it; own_data and tools/convert_data.py fill it in"
            )
        return self[key]


def _check_root(dataset: dict, split: str) -> None:
    root = dataset.get("data_root")
    if root and not Path(root).is_dir():
        raise UserError(
            f"no data root {root} ({split} data set): put the data there, or set --data-root DIR"
        )


def _check_heads(cfg: Any, classes: Sequence[str], split: str) -> None:
    for name, head in config_tree.class_heads(cfg["model"]):
        if head["num_classes"] != len(classes):
            raise UserError(
                f"{name}.num_classes is {head['num_classes']}, but the {split} data set has "
                f"{len(classes)} classes ({shortened(classes)}): set it to {len(classes)}, "
                "or use own_data, which sets it"
            )


def _check_coco(
    cfg: Any, dataset: dict, classes: Sequence[str], split: str, files: _CocoFiles
) -> list[str]:
    """Check one COCO data set and the evaluators of its split; return warnings."""
    evaluators = [] if split == "train" else _coco_evaluators(cfg, split)
    evaluated = [metric for metric in evaluators if not metric.get("format_only")]
    for_test_server = bool(evaluators) and not evaluated  # whose files have no annotations
    steps = list(config_tree.steps(dataset.get("pipeline")))
    annotated = not (for_test_server or config_tree.is_unlabeled(dataset))
    file = files[config_tree.resolve(dataset, dataset["ann_file"]), annotated]
    _check_classes(file, classes)
    folder = config_tree.resolve(dataset, dataset["data_prefix"]["img"])
    _check_images(file, folder)
    warnings = []
    if split == "train" and annotated:
        _check_usable(file, classes, (dataset.get("filter_cfg") or {}).get("min_size", 0))
        if any(step.get("with_mask") for step in steps):
            warnings += _check_masks(file, classes)
        if any(step.get("with_seg") for step in steps):
            _check_stuff_maps(file, dataset)
    for metric in evaluated:
        warnings += _check_evaluator(metric, file, classes, split, files)
    skips = split == "train" and bool(cfg.get("skip_bad_images"))
    return warnings + _check_headers(file, folder, config_tree.turns_images(dataset), skips)


def _coco_evaluators(cfg: Any, split: str) -> list[dict]:
    return [
        metric
        for metric in config_tree.split_evaluators(cfg, split)
        if str(metric.get("type", "")).rpartition(".")[2].startswith("Coco")
        and str(metric.get("ann_file") or "").endswith(".json")
        and "://" not in metric["ann_file"]
    ]


def _check_evaluator(
    metric: dict, data: CocoFile, classes: Sequence[str], split: str, files: _CocoFiles
) -> list[str]:
    file = files[Path(metric["ann_file"]), True]
    _check_classes(file, classes)
    warnings = []
    if "segm" in (metric.get("metric") or []):
        warnings = _check_masks(file, classes)
    if file.image_ids != data.image_ids:
        raise UserError(
            f"{split}_evaluator reads {file.path} with {len(file.image_ids)} images, the {split} "
            f"data set {data.path} with {len(data.image_ids)}, and they are not the same: set both "
            "ann_file to one file"
        )
    if file.without_iscrowd:
        raise file.error(
            f"{file.without_iscrowd} annotations lack iscrowd, which COCO evaluation needs: add "
            '"iscrowd": 0 to each, or use own_data or tools/convert_data.py, which do'
        )
    if file.has_id_zero and metric["type"] != "swin_dense.CocoMetric":
        raise file.error(
            "an annotation has the id 0, which COCO evaluation takes for an object that was not "
            "found: number them from 1, or set type='swin_dense.CocoMetric' in the evaluator"
        )
    return warnings


def _check_classes(file: CocoFile, classes: Sequence[str]) -> None:
    names = list(file.categories.values())
    missing = [name for name in classes if name not in names]
    if missing:
        raise UserError(
            f"{file.path} lacks {len(missing)} of the config's {len(classes)} classes: "
            f"{shortened(missing)}; it has {shortened(names) or 'none'}. For your own data, "
            "set own_data, which reads the classes from the file"
        )
    in_file_order = [name for name in names if name in classes]
    if in_file_order != list(classes):
        raise UserError(
            f"{file.path} has the classes in another order than the config: labels are numbered "
            f"by the file, which starts with {shortened(in_file_order)}, not "
            f"{shortened(classes)}: use the same order in the config and in all files"
        )


def _check_images(file: CocoFile, folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"no image folder {folder}: put the images there, or correct data_prefix")
    if not file.file_names:
        raise UserError(f"{file.path} lists no images: export it again with its images")
    missing = missing_files(file.file_names, folder)
    if missing:
        raise UserError(
            f"{len(missing)} of {len(file.file_names)} images of {file.path} are not in {folder}, "
            f"the first is {missing[0]}: add them, or remove them from the file"
        )


def _check_headers(file: CocoFile, folder: Path, turned: bool, skips: bool) -> list[str]:
    """Check that every image can be opened and has the size that the file says; return warnings.

    Args:
        file: the annotations.
        folder: of the images.
        turned: whether they are turned by their EXIF tag when they are loaded.
        skips: whether training skips images that are wrong; then they are a warning.
    """
    found = image_sizes([folder / name for name in file.file_names], turned)
    images = list(zip(file.file_names, file.sizes, found, strict=True))
    problems = []
    if unreadable := [i for i in images if isinstance(i[2], UnreadableImageError)]:
        name, _, reason = unreadable[0]
        problems.append(
            f"{len(unreadable)} of {len(images)} images of {file.path} cannot be read, the first "
            f"is {folder / name}: {reason}"
        )
    other = [
        (n, said, size) for n, said, size in images if isinstance(size, tuple) and said != size
    ]
    if other:
        name, said, (width, height) = other[0]
        how = ", perhaps turned by its EXIF tag" if said == (height, width) else ""
        problems.append(
            f"{len(other)} of {len(images)} images have another size than {file.path} says, the "
            f"first is {folder / name}: {width} x {height} pixels{how}, not {said[0]} x {said[1]}"
        )
    if problems and not skips:
        raise UserError(
            f"{problems[0]}; correct the images or the file, or train with --skip-bad-images"
        )
    return [f"{problem}; training skips them" for problem in problems]


def _check_usable(file: CocoFile, classes: Sequence[str], min_size: int) -> None:
    largest = max((file.usable.get(key, -1) for key in file.ids_of(classes)), default=-1)
    if largest < 0:
        raise UserError(
            f"{file.path} has no annotations to train on: none of {shortened(classes)} has a box "
            "inside its image and is not a crowd"
        )
    if largest < min_size:
        raise file.error(
            f"every image with annotations is smaller than filter_cfg.min_size ({min_size} pixels),"
            " so all would be skipped: lower train_dataloader.dataset.filter_cfg.min_size"
        )


def _check_masks(file: CocoFile, classes: Sequence[str]) -> list[str]:
    """Check that each annotation has a mask; return a warning about parts that are left out."""
    ids: dict[str, list] = {}
    for category in file.ids_of(classes):
        for reason, found in file.without_mask.get(category, {}).items():
            ids.setdefault(reason, []).extend(found)
    if ids:
        problems = [
            f"{len(i)} annotations {reason} (ids {shortened(i)})" for reason, i in ids.items()
        ]
        raise file.error(
            f"{'; '.join(problems)}, and the config trains or evaluates masks: add or correct "
            "segmentations, or set masks=False in own_data to train boxes only"
        )
    if not file.fragments:
        return []
    return [
        f"{file.path}: {len(file.fragments)} annotations have polygons of less than three points, "
        f"which will be left out (ids {shortened(file.fragments)})"
    ]


def _check_stuff_maps(file: CocoFile, dataset: dict) -> None:
    prefix = dataset["data_prefix"].get("seg")
    if not prefix:
        raise UserError(
            "the semantic branch is trained with COCO-stuff label maps, but data_prefix.seg, their "
            f"folder, is not set: {_WITHOUT_SEMANTIC}, or set it"
        )
    folder = config_tree.resolve(dataset, prefix)
    suffix = dataset.get("seg_map_suffix", ".png")
    missing = missing_files([n.rsplit(".", 1)[0] + suffix for n in file.file_names], folder)
    if missing:
        raise UserError(
            f"{folder} lacks {len(missing)} of {len(file.file_names)} COCO-stuff label maps, on "
            f"which the semantic branch is trained, the first is {missing[0]}: unpack "
            f"{_STUFF_MAPS} into {folder.parent}, or {_WITHOUT_SEMANTIC}"
        )
