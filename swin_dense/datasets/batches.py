"""Batches of a training that depend on its seed and on their own place in it alone.

Which images are in a batch, and what is drawn to change an image, does not depend on the images
before it, on who loads them or on what else a process draws. So a training that is resumed goes on
with the batch that it would have had, without loading those before it again, and with any number of
worker processes.
"""

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import BatchSampler, Sampler

from swin_dense.errors import UserError

# What is drawn: numbers that keep the streams apart.
_ORDER, _LOADING, _STEP = range(3)


def seed_process(*numbers: int) -> None:
    """Seeds Python, numpy and PyTorch (CPU and current GPU) by a mixture of these numbers."""
    words = np.random.SeedSequence(numbers).generate_state(8)
    first, second = words[:4].view(np.uint64).tolist()
    random.seed(first)
    np.random.seed(words[4:])
    # torch.manual_seed notes its caller where there is no GPU, and takes longer than all the rest.
    torch.default_generator.manual_seed(second)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(second)


def seed_step(seed: int, step: int) -> None:
    """Seeds what this process draws in one step of a training, such as stochastic depth."""
    seed_process(seed, _STEP, get_rank(), step)


class Batch(list):
    """Indices of images, and the numbers that seed how these are changed."""

    seeds: Sequence[tuple[int, ...]] = ()


class ResumableBatchSampler(BatchSampler):
    """Another batch sampler, from any of its batches on, which also seeds how these are loaded.

    Args:
        sampler: of images; ``set_epoch``, if it has one, is called by mmengine's hook, or here if
            ``endless``.
        batch_size: images in a batch, of one process.
        seed: of the training, the same in all processes.
        batch_sampler: the config of the other one; by default PyTorch's.
        drop_last: for PyTorch's, whether to leave out a last batch that is smaller.
        endless: begin anew after the last batch, for trainings that count iterations only.

    Raises:
        UserError: the sampler fills batches from several data sets, and cannot.
    """

    def __init__(
        self,
        sampler: Sampler,
        batch_size: Any,
        seed: int,
        batch_sampler: dict | None = None,
        drop_last: bool = False,
        endless: bool = False,
    ) -> None:
        self.sampler, self.batch_size, self.drop_last = sampler, batch_size, drop_last
        self._batches: Iterable[list] = (
            BatchSampler(sampler, batch_size, drop_last)
            if batch_sampler is None
            else DATA_SAMPLERS.build(
                batch_sampler, default_args={"sampler": sampler, "batch_size": batch_size}
            )
        )
        self._seed, self._endless = seed, endless
        self._start = 0, 0
        _check_sources(sampler, batch_size)

    def __len__(self) -> int:
        """How many batches an epoch has."""
        return len(self._batches)  # type: ignore[arg-type]

    def go_to(self, epoch: int, done: int) -> None:
        """Lets the next iteration begin in an epoch, after so many of its batches.

        If ``endless``, what comes after the first epoch counts as part of it.
        """
        self._start = epoch, done

    def __iter__(self) -> Iterator[Batch]:
        """Batches from where :meth:`go_to` says.

        Raises:
            UserError: an epoch has no batch.
        """
        first, done = self._start
        epochs = itertools.count(first) if self._endless else [first]
        batches = itertools.chain.from_iterable(map(self._epoch, epochs))
        return itertools.islice(batches, done, None)

    def _epoch(self, epoch: int) -> Iterator[Batch]:
        if self._endless and hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)
        batches, done = iter(self._batches), 0
        while True:
            seed_process(self._seed, _ORDER, epoch, done)  # some samplers draw, for each batch
            indices = next(batches, None)
            if indices is None:
                break
            batch = Batch(indices)
            numbers = range(done, done := done + len(batch))
            batch.seeds = [(self._seed, _LOADING, get_rank(), epoch, n) for n in numbers]
            yield batch
        if done == 0:
            raise UserError(
                f"the training data set has not one batch of {self.batch_size} images: make "
                "train_dataloader.batch_size smaller"
            )


def _check_sources(sampler: Any, batch_size: Any) -> None:
    """Raises if mmdet's samplers of several data sets would fill batches wrongly, or never."""
    own = getattr(sampler, "batch_size", batch_size)
    if own != batch_size:
        raise UserError(
            f"train_dataloader.sampler.batch_size is {own}, train_dataloader.batch_size is "
            f"{batch_size}: set both to the same number"
        )
    groups = getattr(sampler, "group2size_per_source", ())
    for group, shape in enumerate(("higher than wide", "not higher than wide")):
        images = [sizes[group] for sizes in groups]
        if any(images) and not all(images):
            raise UserError(
                f"the training data sets have {' and '.join(map(str, images))} images that are "
                f"{shape}, and a batch takes such images from each: add some to the one without, "
                "or set train_dataloader.sampler.type='MultiSourceSampler', which mixes shapes"
            )


def resumable_loader(loader: dict, seed: int, endless: bool) -> dict:
    """The config of a data loader, with a :class:`ResumableBatchSampler`."""
    loader = dict(loader)
    loader["sampler"] = {"seed": seed, **loader["sampler"]}
    loader["batch_sampler"] = {
        "type": ResumableBatchSampler,
        "seed": seed,
        "batch_sampler": loader.get("batch_sampler"),
        "drop_last": loader.pop("drop_last", False),
        "endless": endless,
    }
    return loader


def seed_loading(dataset: Any) -> None:
    """Lets a data set load each image of a :class:`Batch` with its seed."""
    # PyTorch asks a data set for this method first. It is the object's, not one of a wrapper:
    # hooks of mmengine and mmdet read and replace other attributes of the data set.
    dataset.__getitems__ = partial(_load, dataset, getattr(dataset, "__getitems__", None))


def _load(dataset: Any, load: Any, batch: list) -> list:
    seeds = batch.seeds if isinstance(batch, Batch) else []  # none from another data loader
    if load:  # it may draw for all images together
        if seeds:
            seed_process(*seeds[0])
        return load(batch)
    images = []
    for index, seed in itertools.zip_longest(batch, seeds):
        if seed:
            seed_process(*seed)
        images.append(dataset[index])
    return images
