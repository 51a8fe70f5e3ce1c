"""Images a second of a config's training pipeline on one core, and the time of each transform."""

import pickle
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from statistics import mean
from typing import Any

import cv2
import numpy as np
import torch
from mmdet.structures.bbox import BaseBoxes
from mmdet.structures.mask.structures import BaseInstanceMasks
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from mmengine.structures import BaseDataElement

from swin_dense.benchmarks.measurement import interleave

# Transforms of ours that stand in for mmdet's.
_STOCK = {
    f"swin_dense.{name}": f"mmdet.{name}"
    for name in ("LoadAnnotations", "RandomFlip", "PackDetInputs")
}


def measure_pipeline(cfg: Config, images: int, rounds: int) -> dict[str, Any]:
    """Load and transform images as a worker of the data loader does, one after the other.

    They are the first ``images`` of the training data, repeated if it has fewer. If the pipeline
    has transforms of ours that stand in for mmdet's, mmdet's are measured too, in turns.

    Returns:
        ``settings``, ``images_per_second``, its ``quartiles``, ``annotation_bytes`` (a sample's
        without its image, pickled as for the main process), and ``steps``, milliseconds of an
        image by transform, the longest first. ``mmdet`` has the same of mmdet's transforms, and
        ``identical`` tells whether all samples are.
    """
    threads, cv2_threads = torch.get_num_threads(), cv2.getNumThreads()
    configs = {"ours": cfg.train_dataloader.dataset}
    if (stock := with_mmdet_transforms(configs["ours"])) != configs["ours"]:
        configs["mmdet"] = stock
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        datasets = {name: DATASETS.build(config) for name, config in configs.items()}
    seconds: dict[str, dict[str, float]] = {name: defaultdict(float) for name in datasets}
    try:
        torch.set_num_threads(1)
        cv2.setNumThreads(0)
        # This also brings the files into the cache of the system.
        samples = _Samples(datasets, min(images, len(datasets["ours"])))
        for name, dataset in datasets.items():
            time_transforms(innermost(dataset).pipeline, seconds[name])
        steps = {name: partial(_run, dataset, images) for name, dataset in datasets.items()}
        timings = interleave(steps, rounds, torch.device("cpu"), warm_up=False)
    finally:
        torch.set_num_threads(threads)
        cv2.setNumThreads(cv2_threads)
    ours, *mmdet = (
        {
            "images_per_second": round(images / timings[name].median, 2),
            "quartiles": sorted(round(images / value, 2) for value in timings[name].quartiles),
            "annotation_bytes": samples.annotation_bytes[name],
            "steps": _steps(seconds[name], images * rounds),
        }
        for name in datasets
    )
    settings = {"settings": {"images": images, "rounds": rounds}}
    if not mmdet:
        return settings | ours
    return settings | ours | {"mmdet": mmdet[0], "identical": samples.identical}


def with_mmdet_transforms(config: Any) -> Any:
    """A copy of a data set's config with mmdet's transforms instead of ours of the same names."""
    if isinstance(config, dict):
        items = {key: with_mmdet_transforms(value) for key, value in config.items()}
        return type(config)({k: _STOCK.get(v, v) if k == "type" else v for k, v in items.items()})
    if isinstance(config, list | tuple):
        return type(config)(with_mmdet_transforms(value) for value in config)
    return config


class _Samples:
    """What the data sets give with the same seeds.

    Attributes:
        annotation_bytes: mean of all samples, by data set.
        identical: whether the first data set's samples have the values of the others'.
    """

    def __init__(self, datasets: dict[str, Any], images: int) -> None:
        sizes: dict[str, list[int]] = {name: [] for name in datasets}
        self.identical = True
        for i in range(images):
            samples = []
            for name, dataset in datasets.items():
                np.random.seed(i)
                sample = dataset[i]
                sizes[name].append(len(pickle.dumps(sample["data_samples"])))
                samples.append(sample)
            self.identical &= all(same_sample(samples[0], other) for other in samples[1:])
        self.annotation_bytes = {name: round(mean(values)) for name, values in sizes.items()}


def same_sample(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two packed samples have the same values, bit for bit."""
    return _same_values(_values(one), _values(other))


def _values(part: Any) -> Any:
    """Nested dictionaries of the arrays in a part of a sample."""
    if isinstance(part, BaseDataElement):
        return {**part.metainfo, **_values(dict(part.items()))}
    if isinstance(part, dict):
        return {key: _values(value) for key, value in part.items()}
    if isinstance(part, BaseBoxes):
        return part.tensor.numpy()
    if isinstance(part, BaseInstanceMasks):
        return part.to_ndarray()
    return part.numpy() if isinstance(part, torch.Tensor) else part


def _same_values(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same_values(one[k], other[k]) for k in one)
    one, other = np.asarray(one), np.asarray(other)
    return one.dtype == other.dtype and np.array_equal(one, other)


def _steps(seconds: dict[str, float], images: int) -> list[dict[str, Any]]:
    longest_first = sorted(seconds.items(), key=lambda item: -item[1])
    return [{"name": n, "ms_per_image": round(1e3 * s / images, 3)} for n, s in longest_first]


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
