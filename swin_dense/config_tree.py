"""Where things are in a config: its data sets, pipelines, evaluators and classifying heads."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.registry import DATASETS

from swin_dense.errors import UserError

# Parts of a model whose `num_classes`, where they have one, is not the data set's.
_OTHER_CLASSES = ("backbone", "neck", "data_preprocessor", "rpn_head", "semantic_head")


def leaf_datasets(dataset: dict) -> Iterator[dict]:
    """Yield the data sets that read files, out of any nesting of wrappers around them."""
    inner = dataset.get("datasets") or ([dataset["dataset"]] if "dataset" in dataset else [])
    if not inner:
        yield dataset
    for part in inner:
        yield from leaf_datasets(part)


def split_datasets(cfg: dict, split: str) -> Iterator[dict]:
    """Yield the data sets of ``"train"``, ``"val"`` or ``"test"``; none if there is no loader."""
    loader = cfg.get(f"{split}_dataloader")
    if loader:
        yield from leaf_datasets(loader["dataset"])


def split_evaluators(cfg: dict, split: str) -> list[dict]:
    """Return the metrics of ``"val"`` or ``"test"`` as a list, however the config writes them."""
    evaluator = cfg.get(f"{split}_evaluator") or []
    metrics = evaluator if isinstance(evaluator, list | tuple) else [evaluator]
    return [metric for metric in metrics if isinstance(metric, dict)]


def pipelines(cfg: dict) -> Iterator[list]:
    """Yield every pipeline of the config: of data sets, their wrappers, and by itself."""
    for name, value in cfg.items():
        if name.endswith("pipeline") and isinstance(value, list):
            yield value
    for split in ("train", "val", "test"):
        loader = cfg.get(f"{split}_dataloader")
        if loader:
            yield from _dataset_pipelines(loader["dataset"])


def _dataset_pipelines(dataset: dict) -> Iterator[list]:
    if dataset.get("pipeline"):
        yield dataset["pipeline"]
    inner = dataset.get("datasets") or ([dataset["dataset"]] if "dataset" in dataset else [])
    for part in inner:
        yield from _dataset_pipelines(part)


def steps(pipeline: Any) -> Iterator[dict]:
    """Yield every step of a pipeline, those nested in other steps included."""
    if isinstance(pipeline, list | tuple):
        for part in pipeline:
            yield from steps(part)
    elif isinstance(pipeline, dict):
        yield pipeline
        yield from steps(pipeline.get("transforms"))


def class_heads(model: Any, name: str = "model") -> Iterator[tuple[str, dict]]:
    """Yield ``(dotted name, config)`` of every part whose ``num_classes`` is the data set's."""
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
        raise UserError(f"{kind} is not a data set that {scope} knows; correct its type")
    return found


def dataset_option(cfg: dict, dataset: dict, name: str) -> Any:
    """Return a constructor argument of the data set: the config's, else the class's default."""
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
