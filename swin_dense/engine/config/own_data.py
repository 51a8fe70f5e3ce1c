"""A user's own data, described by a few lines of a config."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from swin_dense import config_tree
from swin_dense.datasets.formats.recognise import complete_boxes
from swin_dense.datasets.formats.recognise_maps import complete_label_maps, own_table
from swin_dense.engine.terminal.console import notify_user
from swin_dense.errors import UserError

_SPLITS = ("train", "val", "test")
_COMMON_KEYS = {"root", "classes", *_SPLITS}
_BOX_KEYS = _COMMON_KEYS | {"masks", "unlabeled"}
_LABEL_MAP_KEYS = _COMMON_KEYS | {"img_suffix", "seg_suffix", "reduce_zero_label", "palette"}


_Tell = Callable[[str], object]


def apply_own_data(
    cfg: Any,
    classes: Sequence[str] | None = None,
    tell: _Tell = notify_user,
    masks: bool | None = None,
) -> Any:
    """Turn a config's ``own_data`` into data sets, heads and evaluators, and drop it.

    For a detector: ``own_data = dict(root='data/fruits')`` recognises COCO, YOLO, Pascal VOC and
    Roboflow's exports in a folder, and converts them to COCO files in a cache folder. COCO files
    may also be named; the classes are read from the training file, ``masks=False`` trains and
    evaluates boxes only::

        own_data = dict(
            root='data/fruits',
            train=dict(ann_file='train.json', img_dir='images'),
            val=dict(ann_file='val.json', img_dir='images'))

    A detector that also trains on images without labels (Soft Teacher) takes them from
    ``unlabeled``, which is given as ``train`` is; annotations in its file are not read.

    For a segmentor, with one label map for each image, whose pixels are indices into ``classes``
    (255 is ignored; ``reduce_zero_label=True`` where 0 means unlabelled and classes count from 1)::

        own_data = dict(
            root='data/roads', classes=('road', 'car'),
            train=dict(img_dir='img/train', seg_dir='seg/train'),
            val=dict(img_dir='img/val', seg_dir='seg/val'))

    ``root`` alone is enough for usual folders and a file that names the classes (``classes.txt``,
    ``labelmap.txt``, ``class_dict.csv``, ``_classes.csv``), or with ``classes``. ``palette``, an
    RGB colour for each class, tells what label maps in colour mean. ``test`` is ``val`` unless
    given. ``img_suffix`` and ``seg_suffix`` tell which files are read, where there are several.

    Args:
        cfg: config of a detector or a segmentor; changed in place and returned. Without
            ``own_data`` nothing changes.
        classes: class names to use where ``own_data`` gives none; for prediction, which reads no
            annotations, so that none need be there.
        masks: whether the weights that predict have a head of masks, for prediction too.
        tell: is called with a line for each thing that was recognised, converted or put right.

    Raises:
        UserError: a part of ``own_data`` is missing or unknown, or the training annotations
            cannot be read.
    """
    own = cfg.get("own_data")
    if own is None:
        return cfg
    own = {key: value for key, value in own.items() if value is not None}
    if classes and not own.get("classes"):
        own["classes"] = tuple(classes)
    datasets = [d for split in _SPLITS for d in config_tree.split_datasets(cfg, split)]
    if any("seg_map_path" in (dataset.get("data_prefix") or {}) for dataset in datasets):
        own_classes = _apply_label_maps(cfg, own, bool(classes), tell)
    else:
        own |= {} if masks is None else {"masks": own.get("masks", masks)}
        own_classes = _apply_boxes(cfg, own, bool(classes), tell)
    for name, head in config_tree.class_heads(cfg["model"]):
        head["num_classes"] = len(own_classes)
        _drop_class_weights(name, head, len(own_classes), tell)
    cfg.pop("own_data")
    return cfg


def drop_masks(cfg: Any) -> Any:
    """Make a box detector of a config that also predicts masks (in place; returns it).

    The mask branch is removed, and masks are neither loaded nor evaluated. This way, a model with a
    mask branch is trained on data without masks.
    """
    model = cfg["model"]
    for part in (model, model.get("roi_head"), model.get("bbox_head")):
        if not isinstance(part, dict):  # a detector may have none, or a list of them
            continue
        for key in ("mask_head", "mask_roi_extractor", "mask_iou_head"):
            part.pop(key, None)
    if "data_preprocessor" in model:
        model["data_preprocessor"].pop("pad_mask", None)
    for pipeline in config_tree.pipelines(cfg):
        # InstaBoost, ours or mmdet's, cuts instances out by their masks.
        pipeline[:] = [s for s in pipeline if not str(s.get("type")).endswith("InstaBoost")]
        for step in config_tree.steps(pipeline):
            if step.get("with_mask"):
                step["with_mask"] = False
    for split in ("val", "test"):
        for metric in config_tree.split_evaluators(cfg, split):
            if "segm" in (metric.get("metric") or []):
                metric["metric"] = ["bbox"]
    return cfg


def _apply_boxes(cfg: Any, own: dict, for_prediction: bool, tell: _Tell) -> tuple[str, ...]:
    """Sets data sets and evaluators; returns the classes."""
    _check_keys(own, _BOX_KEYS, {"ann_file", "img_dir"})
    training_sets = config_tree.split_datasets(cfg, "train")
    if own.get("unlabeled") and not any(map(config_tree.is_unlabeled, training_sets)):
        raise UserError(
            "own_data has unlabeled, and this config trains on images with labels alone: remove "
            "it, or inherit from soft_teacher_swin_t_coco"
        )
    if for_prediction and ("masks" in own or not Path(own["root"]).is_dir()):
        _complete_without_data(cfg, own)
    elif not (for_prediction and "train" in own):
        for line in complete_boxes(own):
            tell(line)
    root, classes = own["root"], tuple(own["classes"])
    for split in _SPLITS:
        part = own.get(split) or own["val"]
        for dataset in config_tree.split_datasets(cfg, split):
            given = _unlabeled(own) if config_tree.is_unlabeled(dataset) else part
            # Assigned, as update() would merge them with those of the config's data set.
            dataset["data_root"], dataset["ann_file"] = root, given["ann_file"]
            dataset["data_prefix"] = {"img": given["img_dir"]}
            dataset["metainfo"] = {"classes": classes}
        for metric in config_tree.split_evaluators(cfg, split):
            if "ann_file" in metric:
                metric["ann_file"] = str(Path(root, part["ann_file"]))
    if not own.get("masks", True):
        drop_masks(cfg)
    return classes


def _complete_without_data(cfg: Any, own: dict) -> None:
    """Sets what prediction needs, where the data are not there to be recognised."""
    parts = (cfg["model"], cfg["model"].get("roi_head"), cfg["model"].get("bbox_head"))
    has_masks = any(isinstance(part, dict) and part.get("mask_head") for part in parts)
    if has_masks and "train" not in own and "masks" not in own:
        raise UserError(
            f"{own['root']} is not there to tell whether its objects have masks: give the config "
            "that the training wrote into its work dir, or set masks in own_data to True or False"
        )
    own.setdefault("train", {"ann_file": "", "img_dir": ""})
    own.setdefault("val", own["train"])


def _unlabeled(own: dict) -> dict:
    if own.get("unlabeled") is None:
        raise UserError(
            "own_data lacks unlabeled: this config also trains on images without labels, so add "
            "unlabeled=dict(ann_file=..., img_dir=...), whose file lists them"
        )
    return own["unlabeled"]


def _apply_label_maps(cfg: Any, own: dict, for_prediction: bool, tell: _Tell) -> tuple[str, ...]:
    """Sets data sets and pipelines; returns the classes."""
    _check_keys(own, _LABEL_MAP_KEYS, {"img_dir", "seg_dir"}, frozenset({"ann_file"}))
    if for_prediction:
        own.setdefault("train", {"img_dir": "", "seg_dir": ""})
        own.setdefault("val", own["train"])
    else:
        for line in complete_label_maps(own):
            tell(line)
    classes = tuple(own.get("classes") or own_table(own).classes)
    reduce_zero_label = own.get("reduce_zero_label", False)
    for split in _SPLITS:
        part = own.get(split) or own["val"]
        for dataset in config_tree.split_datasets(cfg, split):
            dataset.update(
                type="BaseSegDataset",
                data_root=own["root"],
                img_suffix=own.get("img_suffix", ".jpg"),
                seg_map_suffix=own.get("seg_suffix", ".png"),
                reduce_zero_label=reduce_zero_label,
            )
            # Assigned, as update() would merge them with those of the config's data set.
            dataset["data_prefix"] = {"img_path": part["img_dir"], "seg_map_path": part["seg_dir"]}
            dataset["metainfo"] = {"classes": classes}
            if own.get("palette"):
                dataset["metainfo"]["palette"] = own["palette"]
            dataset.pop("ann_file", None)
            if "ann_file" in part:
                dataset["ann_file"] = part["ann_file"]
    for pipeline in config_tree.pipelines(cfg):
        for step in config_tree.steps(pipeline):
            if "reduce_zero_label" in step:
                step["reduce_zero_label"] = reduce_zero_label
    return classes


def _drop_class_weights(name: str, head: dict, num_classes: int, tell: _Tell) -> None:
    """Drop a head's weights of classes if they are for another number of classes."""
    losses = [loss for key, loss in head.items() if key.startswith("loss")]
    for loss in config_tree.mappings(losses):
        weights = loss.get("class_weight")
        if isinstance(weights, list | tuple) and len(weights) != num_classes:
            loss.pop("class_weight")
            tell(
                f"the {len(weights)} class weights of {name} are dropped, as own_data has "
                f"{num_classes} classes: set class_weight to weigh these"
            )


def _check_keys(
    own: dict, keys: set[str], part_keys: set[str], optional: frozenset[str] = frozenset()
) -> None:
    if unknown := set(own) - keys:
        raise UserError(f"own_data has no {_join(unknown)}: it takes {_join(keys)}")
    needed = ("root", "train", "val") if own.keys() & {"train", "val"} else ("root",)
    for key in needed:
        if key not in own:
            raise UserError(f"own_data lacks {key}: it needs root alone, or root, train and val")
    if not isinstance(own["root"], str | Path):
        raise UserError(f"own_data.root is {own['root']!r}: give the folder of the data")
    if isinstance(own.get("classes"), str):
        raise UserError(f"own_data.classes is a string: list names, as in ({own['classes']!r},)")
    for split in (*_SPLITS, "unlabeled"):
        if split in own and not isinstance(own[split], dict):
            raise UserError(f"own_data.{split} is {own[split]!r}: it takes a dict(...)")
        if split in own and (found := set(own[split])) - optional != part_keys:
            takes = f"it takes exactly {_join(part_keys)}"
            raise UserError(f"own_data.{split} has {_join(found) or 'nothing'}: {takes}")


def _join(keys: set[str]) -> str:
    return ", ".join(sorted(keys))
