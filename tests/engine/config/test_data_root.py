"""Relocating a config's data with ``--data-root``."""

import pytest
from mmengine.config import Config

from swin_dense.engine.config.data_root import set_data_root
from swin_dense.engine.config.prepare import load_config
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
    assert cfg.val_evaluator[1].seg_prefix == "data/coco/mini"


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


def test_class_with_the_name_of_the_folder_stays(tmp_path):
    text = (
        COCO.replace("data/coco/", "circle/")
        + """
classes = ("circle", "square")
train_dataloader["dataset"]["dataset"]["datasets"][0]["metainfo"] = dict(classes=classes)
own_data = dict(root="circle", classes=classes)
"""
    )
    cfg = Config.fromstring(text, ".py")
    set_data_root(cfg, tmp_path)
    part = cfg.train_dataloader.dataset.dataset.datasets[0]
    assert part.data_root == cfg.own_data.root == str(tmp_path)
    assert [*part.metainfo.classes] == ["circle", "square"]
    assert [*cfg.classes] == [*cfg.own_data.classes] == ["circle", "square"]
