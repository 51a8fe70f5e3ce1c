"""What the terminal says before the first step of a training."""

import json
from types import SimpleNamespace

import pytest
from mmengine.config import Config

from swin_dense.datasets import coco_file
from swin_dense.datasets.check import check_data
from swin_dense.engine.terminal import summary
from swin_dense.engine.terminal.summary import SummaryHook

CLASSES = ("fig", "date", "nut")


def write_annotations(path, counts: dict[str, int]) -> None:
    """Two images; crowds and boxes of no size are no objects."""
    names = [name for name, count in counts.items() for _ in range(count)]
    kept = {"image_id": 1, "bbox": [1, 1, 8, 8], "area": 64, "iscrowd": 0}
    left_out = [{**kept, "iscrowd": 1}, {**kept, "bbox": [1, 1, 0, 0]}]
    found = [{**kept, "category_id": CLASSES.index(name)} for name in names]
    found += [{**one, "category_id": 0} for one in left_out]
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 32, "height": 32} for i in (1, 2)],
        "annotations": [{**one, "id": i} for i, one in enumerate(found, start=1)],
        "categories": [{"id": i, "name": name} for i, name in enumerate(CLASSES)],
    }
    path.write_text(json.dumps(content))


@pytest.fixture
def lines(monkeypatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(summary, "notify_user", said.append)
    return said


def runner_of(folder, val: str) -> SimpleNamespace:
    def loader(name: str) -> dict:
        dataset = {"type": "CocoDataset", "ann_file": str(folder / name)}
        return {"batch_size": 2, "dataset": dataset | {"metainfo": {"classes": CLASSES}}}

    cfg = {"default_scope": "mmdet", "optim_wrapper": {"optimizer": {"lr": 0.1}}}
    cfg |= {"train_dataloader": loader("train.json"), "val_dataloader": loader(val)}
    batches = SimpleNamespace(dataset=range(2), batch_size=2, batch_sampler=None)
    said = "fitted to this run: warm-up takes 10 steps, not 500"
    return SimpleNamespace(
        cfg=Config(cfg),
        train_dataloader=batches,
        train_loop=None,
        max_iters=100,
        optim_wrapper=SimpleNamespace(_accumulative_counts=4),
        fitted_schedule=said,
    )


def test_counts_rare_and_absent_classes_batch_and_schedule(tmp_path, lines):
    write_annotations(tmp_path / "train.json", {"nut": 12, "fig": 3})
    write_annotations(tmp_path / "val.json", {"date": 2, "nut": 1})
    SummaryHook().before_train(runner_of(tmp_path, "val.json"))
    assert lines == [
        "train: 2 images, 15 objects of 2 classes: nut 12, fig 3",
        "train: fewer than 10 objects: fig 3",
        "train: classes without objects (1): date",
        "val: 2 images, 3 objects of 2 classes: date 2, nut 1",
        "val: classes without objects (1): fig",
        "2 images for training: 100 steps, each image 100 times; batch 2, gradients of 4 added up; "
        "learning rate 0.1",
        "schedule: fitted to this run: warm-up takes 10 steps, not 500",
    ]


def test_validation_on_training_images_is_named(tmp_path, lines):
    write_annotations(tmp_path / "train.json", {"nut": 12, "fig": 30, "date": 20})
    SummaryHook().before_train(runner_of(tmp_path, "train.json"))
    assert lines[0] == "train: 2 images, 62 objects of 3 classes: fig 30, date 20, nut 12"
    assert lines[1].startswith("val: 2 images of the same file")


def test_files_that_the_check_has_read_are_not_read_again(shared, tmp_path, lines):
    runner = runner_of(tmp_path, "train.json")
    for loader in (runner.cfg.train_dataloader, runner.cfg.val_dataloader):
        root = shared / "data" / "fruits_nuts"
        loader.dataset.update(data_root=str(root), ann_file="trainval.json")
        loader.dataset.data_prefix = {"img": "images"}
        loader.dataset.metainfo.classes = ("date", "fig", "hazelnut")
    runner.cfg.model = {}
    check_data(runner.cfg)
    before = coco_file._read.cache_info().misses
    SummaryHook().before_train(runner)
    assert coco_file._read.cache_info().misses == before
    assert "date 71" in lines[0]
