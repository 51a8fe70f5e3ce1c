"""Data roots and pretrained weights of a config."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from swin_dense.engine.config.data_root import set_data_root
from swin_dense.engine.config.prepare import load_config
from swin_dense.engine.config.pretrained import (
    cached_path,
    drop_pretrained,
    ensure_pretrained,
    local_weights,
    pretrained_files,
)
from swin_dense.errors import UserError

COCO = """
data_root = 'data/coco/'
load = dict(type='LoadImageFromFile')
part = dict(type='CocoDataset', data_root=data_root, ann_file='annotations/train.json',
            data_prefix=dict(img='train/'), pipeline=[load])
train_dataloader = dict(dataset=dict(type='RepeatDataset', times=2, dataset=dict(
    type='ConcatDataset', datasets=[part, dict(
        type='CocoDataset', data_root='data/other', ann_file='data/other/a.json',
        data_prefix=dict(img='images'), pipeline=[load])])))
val_dataloader = dict(dataset=dict(type='CocoDataset', ann_file='annotations/val.json'))
test_dataloader = val_dataloader
val_evaluator = [dict(type='CocoMetric', ann_file=data_root + 'annotations/val.json'),
                 dict(type='CocoPanopticMetric', ann_file='data/coco2/p.json',
                      seg_prefix=data_root)]
test_evaluator = val_evaluator
work_dir = 'data/coco/work'
model = dict(type='X', note='data/coco/this')
"""


@pytest.fixture
def moved(tmp_path) -> Config:
    cfg = Config.fromstring(COCO, ".py")
    set_data_root(cfg, tmp_path)
    return cfg


def test_every_data_set_is_relocated(moved, tmp_path):
    root = str(tmp_path)
    repeated, other = moved.train_dataloader.dataset.dataset.datasets
    assert repeated.data_root == other.data_root == root
    assert repeated.ann_file == "annotations/train.json"
    assert repeated.data_prefix.img == "train/"
    assert other.ann_file == f"{root}/a.json"
    for split in ("val", "test"):
        dataset = moved[f"{split}_dataloader"].dataset
        assert (dataset.data_root, dataset.ann_file) == (root, "annotations/val.json")
    assert moved.data_root == root


def test_dataset_wrappers_get_no_root(moved):
    assert "data_root" not in moved.train_dataloader.dataset
    assert "data_root" not in moved.train_dataloader.dataset.dataset


def test_evaluators_are_relocated_by_whole_folder_names(moved, tmp_path):
    for split in ("val", "test"):
        boxes, panoptic = moved[f"{split}_evaluator"]
        assert boxes.ann_file == f"{tmp_path}/annotations/val.json"
        assert panoptic.seg_prefix == str(tmp_path)
        assert panoptic.ann_file == f"{tmp_path}/data/coco2/p.json"  # not below data/coco


def test_other_paths_are_unchanged(moved):
    assert moved.work_dir == "data/coco/work"
    assert moved.model.note == "data/coco/this"


def test_relocation_is_idempotent(moved, tmp_path):
    """Also when the new root is below the old one, and when val and test share their dicts."""
    before = moved.pretty_text
    set_data_root(moved, tmp_path)
    assert moved.pretty_text == before


def test_a_new_root_below_the_old_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "coco" / "mini").mkdir(parents=True)
    cfg = Config.fromstring(COCO, ".py")
    set_data_root(cfg, "data/coco/mini")
    assert cfg.test_evaluator[0].ann_file == "data/coco/mini/annotations/val.json"
    assert cfg.val_evaluator[0].ann_file == "data/coco/mini/annotations/val.json"


def test_absolute_paths_elsewhere_are_unchanged(tmp_path):
    cfg = Config.fromstring("val_evaluator = dict(type='CocoMetric', ann_file='/a/b.json')", ".py")
    set_data_root(cfg, tmp_path)
    assert cfg.val_evaluator.ann_file == "/a/b.json"


def test_missing_root_raises(tmp_path):
    with pytest.raises(UserError, match="no such data root"):
        set_data_root(Config.fromstring(COCO, ".py"), tmp_path / "none")


@pytest.mark.parametrize(
    "leaf", ["cascade_swin_t_coco", "atss_swin_t_coco", "upernet_swin_t_ade20k"]
)
def test_every_path_of_our_configs_is_relocated(repo, tmp_path, leaf):
    cfg = load_config(repo / "configs" / f"{leaf}.py", data_root=tmp_path)
    data = {k: v for k, v in cfg.items() if k.endswith(("dataloader", "evaluator", "data_root"))}
    assert "'data/" not in str(data)
    assert str(tmp_path) in str(data["train_dataloader"])


MODEL = """
model = dict(
    pretrained='torchvision://resnet50',
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='https://x.invalid/a/b.pth?raw=1')),
    head=dict(init_cfg=[dict(type='Normal', std=1.0),
                        dict(type='mmengine.Pretrained', checkpoint='c.pth')]),
    neck=dict(init_cfg=dict(type='Xavier')))
load_from = 'd.pth'
"""


def test_pretrained_weights_are_listed_and_removed():
    cfg = Config.fromstring(MODEL, ".py")
    assert pretrained_files(cfg) == [
        "torchvision://resnet50",
        "https://x.invalid/a/b.pth?raw=1",
        "c.pth",
        "d.pth",
    ]
    drop_pretrained(cfg)
    assert pretrained_files(cfg) == []
    assert cfg.model.neck.init_cfg == {"type": "Xavier"}
    assert cfg.model.head.init_cfg == [{"type": "Normal", "std": 1.0}]


def test_cached_weights_are_not_downloaded(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = "https://x.invalid/a/b.pth?raw=1"
    path = cached_path(url)
    assert path == Path(torch.hub.get_dir()) / "checkpoints" / "b.pth"
    path.parent.mkdir(parents=True)
    path.touch()
    assert local_weights(url) == str(path)
    ensure_pretrained(Config({"model": {"init_cfg": {"type": "Pretrained", "checkpoint": url}}}))


def test_weights_are_downloaded_to_the_cache_of_pytorch(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    source = tmp_path / "weights.pth"
    torch.save({"a": torch.ones(1)}, source)

    def download(url, to, **_):
        Path(to).write_bytes(source.read_bytes())

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    found = local_weights("https://x.invalid/weights.pth")
    assert found == str(tmp_path / "home" / "hub" / "checkpoints" / "weights.pth")
    assert Path(found).read_bytes() == source.read_bytes()


def test_failed_download_leaves_no_file_and_names_url_and_path(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def fail(url, to, **_):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(UserError) as caught:
        local_weights("https://x.invalid/w.pth")
    message = str(caught.value)
    for part in ("no route to host", "https://x.invalid/w.pth", str(cached_path("w.pth"))):
        assert part in message
    assert "--from-scratch" in message


def test_own_data_with_data_root(tmp_path):
    """With known classes (from a checkpoint), the annotation file need not exist."""
    config = tmp_path / "own.py"
    parent = Path(__file__).parents[2] / "tools" / "tiny_detector.py"
    config.write_text(
        f"_base_ = {str(parent)!r}\n"
        "own_data = dict(root='nowhere', train=dict(ann_file='t.json', img_dir='i'),"
        " val=dict(ann_file='v.json', img_dir='i'))\n"
    )
    cfg = load_config(config, data_root=tmp_path, classes=("nut", "fig"))
    assert cfg.model.roi_head.bbox_head.num_classes == 2
    assert cfg.train_dataloader.dataset.data_root == str(tmp_path)
    assert cfg.val_evaluator.ann_file == str(tmp_path / "v.json")
