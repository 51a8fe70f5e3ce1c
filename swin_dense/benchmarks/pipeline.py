"""Images a second of a config's training pipeline on one core, and the time of each transform."""

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope

from swin_dense.benchmarks.measurement import interleave


def measure_pipeline(cfg: Config, images: int, rounds: int) -> dict[str, Any]:
    """Load and transform images as a worker of the data loader does, one after the other.

    They are the first ``images`` of the training data, repeated if it has fewer.

    Returns:
        ``settings``, ``images_per_second``, and ``steps``, milliseconds of an image by transform,
        the longest first.
    """
    threads, cv2_threads = torch.get_num_threads(), cv2.getNumThreads()
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
    seconds: dict[str, float] = defaultdict(float)
    time_transforms(innermost(dataset).pipeline, seconds)
    try:
        torch.set_num_threads(1)
        cv2.setNumThreads(0)
        step = {"pipeline": lambda: _run(dataset, images)}
        _run(dataset, min(images, len(dataset)))  # files reach the cache of the system
        seconds.clear()
        timing = interleave(step, rounds, torch.device("cpu"), warm_up=False)["pipeline"]
    finally:
        torch.set_num_threads(threads)
        cv2.setNumThreads(cv2_threads)
    done = images * rounds
    steps = sorted(seconds.items(), key=lambda item: -item[1])
    return {
        "settings": {"images": images, "rounds": rounds},
        "images_per_second": round(images / timing.median, 2),
        "quartiles": sorted(round(images / value, 2) for value in timing.quartiles),
        "steps": [{"name": n, "ms_per_image": round(1e3 * s / done, 3)} for n, s in steps],
    }


def innermost(dataset: Any) -> Any:
    """The data set within wrappers such as RepeatDataset."""
    while hasattr(dataset, "dataset"):
        dataset = dataset.dataset
    return dataset


def time_transforms(pipeline: Any, seconds: dict[str, float]) -> None:
    """Let a pipeline's transforms, nested ones too, add their time to ``seconds``, by class."""
    for i, transform in enumerate(pipeline.transforms):
        if isinstance(getattr(transform, "transforms", None), list):
            time_transforms(transform, seconds)
        else:
            pipeline.transforms[i] = _timed(transform, seconds)


def _timed(transform: Callable[[Any], Any], seconds: dict[str, float]) -> Callable[[Any], Any]:
    name = type(transform).__name__

    def run(results: Any) -> Any:
        start = time.perf_counter()
        try:
            return transform(results)
        finally:
            seconds[name] += time.perf_counter() - start

    return run


def _run(dataset: Any, images: int) -> None:
    np.random.seed(0)  # the same scales and crops in every round
    for i in range(images):
        dataset[i % len(dataset)]
