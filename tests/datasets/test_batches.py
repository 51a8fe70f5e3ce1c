"""Batches of a training from any of them on, with every sampler of mmengine and mmdet."""

import itertools
import random
from typing import Any

import mmdet.datasets.samplers  # noqa: F401  (registers them)
import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from torch.utils.data import ConcatDataset, DataLoader, Dataset

from swin_dense.datasets.batches import resumable_loader, seed_loading
from swin_dense.errors import UserError


class Images(Dataset):
    """Images of two shapes and three classes, whose pixels are drawn."""

    @property
    def metainfo(self) -> dict:
        return {"classes": ("a", "b", "c")}

    def __len__(self) -> int:
        return 23

    def __getitem__(self, index: int) -> tuple:
        return index, random.random(), np.random.rand(), torch.rand(1).item()

    def get_data_info(self, index: int) -> dict[str, int]:
        return {"width": 5, "height": 3 + index % 5}

    def get_cat_ids(self, index: int) -> list[int]:
        return [index % 3]


class TwoSources(ConcatDataset):
    def __init__(self) -> None:
        super().__init__([Images(), Images()])


@pytest.fixture(autouse=True)
def _scope():
    DefaultScope.get_instance("batches", scope_name="mmdet")


def loader(epoch: int, done: int, workers: int = 0, endless: bool = False, **options) -> DataLoader:
    config: dict[str, Any] = {"batch_size": 4, "num_workers": workers, "dataset": Images()}
    config |= {"sampler": {"type": "DefaultSampler"}, **options}
    config["collate_fn"] = list
    built = Runner.build_dataloader(resumable_loader(config, 5, endless), seed=5)
    seed_loading(built.dataset)
    if not endless:
        built.batch_sampler.sampler.set_epoch(epoch)  # as mmengine's hook does
    built.batch_sampler.go_to(epoch, done)
    return built


SOURCES = {"batch_size": 4, "source_ratio": [1, 3]}


@pytest.mark.parametrize(
    ("endless", "options"),
    [
        (False, {}),
        (False, {"drop_last": True}),
        (False, {"batch_sampler": {"type": "AspectRatioBatchSampler"}}),
        (False, {"sampler": {"type": "ClassAwareSampler"}}),
        (True, {}),
        (True, {"sampler": {"type": "InfiniteSampler"}}),
        (True, {"batch_sampler": {"type": "AspectRatioBatchSampler"}}),
        (True, {"sampler": {"type": "MultiSourceSampler", **SOURCES}, "dataset": TwoSources()}),
        (True, {"sampler": {"type": "GroupMultiSourceSampler", **SOURCES}}),
    ],
)
def test_rest_of_the_batches(endless, options):
    """The same images, and the same numbers drawn for them, whoever loads them."""
    if "Group" in str(options):
        options["dataset"] = TwoSources()
        options["dataset"].get_data_info = Images().get_data_info

    def batches(done: int, workers: int = 0) -> list:
        # Processes' generators are in other states each time.
        found = itertools.islice(loader(2 - 2 * endless, done, workers, endless, **options), 20)
        return list(found)

    whole = batches(0)
    assert len(whole) == (20 if endless else 6 - ("drop_last" in options))
    assert len({image[1:] for batch in whole for image in batch}) == sum(map(len, whole))
    for done, workers in ((3, 0), (3, 2), (5, 0)):
        rest = batches(done, workers)
        assert rest[: len(whole) - done] == whole[done:]


def test_epochs_have_other_orders_and_numbers():
    first, second = (list(loader(epoch, 0)) for epoch in (0, 1))
    assert sorted(i for b in first for i, *_ in b) == sorted(i for b in second for i, *_ in b)
    assert first[0] != second[0]


def test_skipped_images_are_not_loaded(monkeypatch):
    loaded = []
    monkeypatch.setattr(Images, "__getitem__", lambda self, index: loaded.append(index))
    assert len(list(loader(0, 5))) == 1
    assert len(loaded) == 3


@pytest.mark.parametrize("endless", [False, True])
def test_no_batch_is_an_error(endless):
    with pytest.raises(UserError, match="has not one batch of 24 images"):
        next(iter(loader(0, 0, endless=endless, batch_size=24, drop_last=True)), None)


@pytest.mark.parametrize("endless", [False, True])
def test_several_data_sets_that_cannot_fill_a_batch(endless):
    """mmdet's sampler looks for an image of the missing shape for ever, or mixes up the sources."""
    sampler = {"type": "GroupMultiSourceSampler", **SOURCES}
    sources = TwoSources()
    sources.datasets[1].get_data_info = lambda index: {"width": 5, "height": 3}
    with pytest.raises(UserError, match="have 8 and 0 images that are higher than wide"):
        loader(0, 0, endless=endless, sampler=sampler, dataset=sources)
    sampler = {"type": "MultiSourceSampler", **SOURCES}
    with pytest.raises(UserError, match=r"sampler\.batch_size is 4, train_dataloader.* is 2"):
        loader(0, 0, endless=endless, sampler=sampler, dataset=TwoSources(), batch_size=2)


def test_data_sets_that_load_whole_batches():
    class Whole(Images):
        def __getitems__(self, indices: list[int]) -> list:
            return [(index, np.random.rand()) for index in indices]

    first, second = (list(loader(0, 0, dataset=Whole())) for _ in range(2))
    assert first == second
    assert len(first[0][0]) == 2
