"""Where things are in a config: data sets, pipelines, evaluators and heads with classes."""

import inspect
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.registry import DATASETS

from swin_dense.errors import UserError

# Parts of a model whose `num_classes`, if any, is not the data set's.
_OTHER_CLASSES = ("backbone", "neck", "data_preprocessor", "rpn_head", "semantic_head")


def split_datasets(cfg: dict, split: str, with_wrappers: bool = False) -> Iterator[dict]:
    """Yield the data sets of ``"train"``, ``"val"`` or ``"test"``; none if there is no loader.

    Those that only wrap others (repeat, concatenate, mix) are yielded ``with_wrappers``.
    """
    loader = cfg.get(f"{split}_dataloader")
    pending = [loader["dataset"]] if loader else []
    while pending:
        dataset = pending.pop(0)
        inner = dataset.get("datasets") or ([dataset["dataset"]] if "dataset" in dataset else [])
        pending = [*inner, *pending]
        if with_wrappers or not inner:
            yield dataset


def split_evaluators(cfg: dict, split: str) -> list[dict]:
    """Return the metrics of ``"val"`` or ``"test"`` as a list."""
    evaluator = cfg.get(f"{split}_evaluator") or []
    metrics = evaluator if isinstance(evaluator, list | tuple) else [evaluator]
    return [metric for metric in metrics if isinstance(metric, dict)]


def main_metric(cfg: dict) -> str | None:
    """Return the metric by which checkpoints are compared: AP of boxes, else of masks, or mIoU.

    It is None without an evaluation, or with one of another kind.
    """
    if (cfg.get("val_cfg") or {}).get("type", "ValLoop") != "ValLoop":
        return None
    for metric in split_evaluators(cfg, "val"):
        kind = str(metric.get("type")).rpartition(".")[2]
        if kind == "IoUMetric" and "mIoU" in metric.get("iou_metrics", ["mIoU"]):
            name = metric.get("prefix")
            return f"{name}/mIoU" if name else "mIoU"
        kinds = metric.get("metric", "bbox")
        if kind == "CocoMetric" and ("bbox" in kinds or "segm" in kinds):
            return f"{metric.get('prefix', 'coco')}/{'bbox' if 'bbox' in kinds else 'segm'}_mAP"
    return None


def pipelines(cfg: dict) -> Iterator[list]:
    """Yield every pipeline of the config: top-level ones, and those of data sets and wrappers."""
    for name, value in cfg.items():
        if name.endswith("pipeline") and isinstance(value, list):
            yield value
    for split in ("train", "val", "test"):
        for dataset in split_datasets(cfg, split, with_wrappers=True):
            if dataset.get("pipeline"):
                yield dataset["pipeline"]


def steps(pipeline: Any) -> Iterator[dict]:
    """Yield every step of a pipeline, including those nested in other steps."""
    if isinstance(pipeline, list | tuple):
        for part in pipeline:
            yield from steps(part)
    elif isinstance(pipeline, dict):
        if "type" in pipeline:
            yield pipeline
        for value in pipeline.values():  # branches have names of their own
            yield from steps(value)


def is_unlabeled(dataset: dict) -> bool:
    """Whether its images are trained on without their annotations, if they have any."""
    kinds = [str(step["type"]) for step in steps(dataset.get("pipeline"))]
    return any("LoadEmptyAnnotations" in kind for kind in kinds)


def turns_images(dataset: dict) -> bool:
    """Whether images are turned by their EXIF tag, as OpenCV and Pillow do by default."""
    for step in steps(dataset.get("pipeline")):
        if str(step.get("type")).rpartition(".")[2] == "LoadImageFromFile":
            backend, colours = step.get("imdecode_backend"), step.get("color_type", "color")
            return backend in (None, "cv2", "pillow") and colours in ("color", "grayscale")
    return True


def class_heads(model: Any, name: str = "model") -> Iterator[tuple[str, dict]]:
    """Yield ``(dotted name, config)`` of every head whose ``num_classes`` is the data set's."""
    if isinstance(model, list | tuple):
        for index, part in enumerate(model):
            yield from class_heads(part, f"{name}[{index}]")
    elif isinstance(model, dict):
        if "num_classes" in model:
            yield name, model
        for key, part in model.items():
            if key not in _OTHER_CLASSES:
                yield from class_heads(part, f"{name}.{key}")


def dataset_class(cfg: dict, dataset: dict) -> type:
    """Return the class that the data set's ``type`` names in the config's scope."""
    kind = dataset["type"]
    if not isinstance(kind, str):
        return kind
    scope = dataset.get("_scope_") or cfg.get("default_scope") or "mmengine"
    found = DATASETS.get(kind if "." in kind else f"{scope}.{kind}")
    if found is None:
        raise UserError(f"{kind} is not a data set of {scope}: correct its type")
    return found


def dataset_option(cfg: dict, dataset: dict, name: str) -> Any:
    """Return a constructor argument of the data set: from the config, else the class's default."""
    if name in dataset:
        return dataset[name]
    for parent in dataset_class(cfg, dataset).__mro__:
        parameter = inspect.signature(parent.__init__).parameters.get(name)  # type: ignore[misc]
        if parameter is not None and parameter.default is not inspect.Parameter.empty:
            return parameter.default
    return None


def class_names(cfg: dict, dataset: dict) -> tuple[str, ...]:
    """Return the names of the data set's classes, in the order of their labels."""
    classes = (dataset.get("metainfo") or {}).get("classes")
    if isinstance(classes, str):  # mmengine reads a text file with a name per line
        path = Path(classes)
        classes = path.read_text().split("\n") if path.is_file() else [classes]
        classes = [name for name in classes if name]
    if classes is None:
        classes = getattr(dataset_class(cfg, dataset), "METAINFO", {}).get("classes", ())
    return tuple(classes)


def resolve(dataset: dict, path: str) -> Path:
    """Join a path of the data set to its ``data_root``, unless the path is absolute."""
    return Path(os.path.join(dataset.get("data_root") or "", path or ""))


def is_segmentation(cfg: dict) -> bool:
    """Whether the config is for mmseg (semantic segmentation); otherwise it is for mmdet."""
    return cfg.get("default_scope") == "mmseg"


def mappings(node: Any) -> Iterator[Any]:
    """Yield every dictionary at or below a node of the config, outermost first."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, list | tuple):
        for value in node:
            yield from mappings(value)
