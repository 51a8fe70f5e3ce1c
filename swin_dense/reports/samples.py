"""Pictures of a data set with their labels, as they are loaded and as they are augmented."""

import copy
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from numpy.typing import NDArray

from swin_dense import config_tree
from swin_dense.engine.drawing import draw_sample

Sample = tuple[NDArray[np.uint8], Path | None]
"""A picture, (H, W, 3) BGR, and the image file that it shows."""


def loaded_samples(cfg: Config, count: int) -> Iterator[Sample]:
    """Random training images with their labels, by the steps of the pipeline that load them."""
    dataset = copy.deepcopy(next(config_tree.split_datasets(cfg, "train")))
    steps = list(dataset["pipeline"])
    packs = [step for step in config_tree.steps(steps) if _is_kind(step, "Pack")]
    dataset["pipeline"] = [step for step in steps if _is_kind(step, "Load")] + packs[:1]
    yield from _samples(cfg, dataset, count)


def augmented_samples(cfg: Config, count: int) -> Iterator[Sample]:
    """The same images as the model gets them; random numbers are those of the global generators."""
    yield from _samples(cfg, cfg.train_dataloader.dataset, count)


def _is_kind(step: Any, kind: str) -> bool:
    name = step["type"] if isinstance(step["type"], str) else step["type"].__name__
    return name.rpartition(".")[2].startswith(kind)


def _samples(cfg: Config, config: dict, count: int) -> Iterator[Sample]:
    with DefaultScope.overwrite_default_scope(cfg.get("default_scope")):
        dataset = DATASETS.build(config)
        order = random.Random(len(dataset)).sample(range(len(dataset)), min(count, len(dataset)))
        for index in order:
            found = dataset[index]
            inputs, sample = found["inputs"], found["data_samples"]
            if isinstance(inputs, dict):  # one image in several forms, as Soft Teacher's
                name = next(name for name, one in inputs.items() if one is not None)
                inputs, sample = inputs[name], sample[name]
            pixels = np.clip(inputs.permute(1, 2, 0).numpy(), 0, 255).astype(np.uint8)
            path = sample.metainfo.get("img_path")
            picture = draw_sample(
                np.ascontiguousarray(pixels), sample, dataset.metainfo, truth=True
            )
            yield picture, Path(path) if path else None
