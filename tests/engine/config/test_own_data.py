"""``own_data``: a config of five lines trains on a user's data set."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine import Config
from mmengine.registry import DATASETS, METRICS, MODELS, DefaultScope

from swin_dense import config_tree
from swin_dense.datasets.check import check_data
from swin_dense.engine.config.own_data import apply_own_data, drop_masks
from swin_dense.errors import UserError

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
NUTS = ("walnut", "fig", "date")  # neither in alphabetical order nor in that of their ids


@pytest.fixture
def nuts(tmp_path: Path) -> Path:
    """Two images, three classes and masks; the annotations are split into two files."""
    root = tmp_path / "nuts"
    (root / "pictures").mkdir(parents=True)
    ids = {name: 30 - 10 * i for i, name in enumerate(NUTS)}
    categories = [{"id": ids[name], "name": name} for name in NUTS]
    for i, split in enumerate(("a", "b")):
        cv2.imwrite(str(root / "pictures" / f"{split}.png"), np.zeros((64, 96, 3), np.uint8))
        annotation = {
            "id": i,
            "image_id": i,
            "category_id": ids["fig"],
            "bbox": [8, 8, 40, 40],
            "area": 1600,
            "iscrowd": 0,
            "segmentation": [[8, 8, 48, 8, 48, 48, 8, 48]],
        }
        content = {
            "images": [{"id": i, "file_name": f"{split}.png", "width": 96, "height": 64}],
            "annotations": [annotation],
            "categories": categories,
        }
        (root / f"{split}.json").write_text(json.dumps(content))
    return root


def own_config(tmp_path: Path, base: str, own: str) -> Config:
    path = tmp_path / "own.py"
    path.write_text(f"_base_ = [{str(CONFIGS / base)!r}]\nown_data = dict({own})\n")
    return Config.fromfile(path)


def nuts_config(tmp_path: Path, base: str, more: str = "") -> Config:
    return own_config(
        tmp_path,
        base,
        f"root={str(tmp_path / 'nuts')!r}, train=dict(ann_file='a.json', img_dir='pictures'), "
        f"val=dict(ann_file='b.json', img_dir='pictures'), {more}",
    )


def build_datasets(cfg: Config) -> dict:
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return {
            split: DATASETS.build(cfg[f"{split}_dataloader"].dataset) for split in ("train", "val")
        }


@pytest.mark.parametrize(
    ("base", "heads"),
    [("mask_rcnn_swin_t_1x_coco.py", 2), ("cascade_swin_t_coco.py", 4), ("atss_swin_t_coco.py", 1)],
)
def test_detector_on_own_classes(base, heads, nuts, tmp_path):
    cfg = apply_own_data(nuts_config(tmp_path, base))
    assert str(cfg.model).count("'num_classes': 3") == heads
    assert "'num_classes': 80" not in str(cfg.model)
    assert "own_data" not in cfg
    assert check_data(cfg, splits=("train", "val", "test")) == []
    assert cfg.val_evaluator.ann_file == cfg.test_evaluator.ann_file == str(nuts / "b.json")
    datasets = build_datasets(cfg)
    for dataset, name in zip(datasets.values(), "ab", strict=True):
        assert dataset.metainfo["classes"] == NUTS
        (data,) = dataset.load_data_list()
        assert data["img_path"] == str(nuts / "pictures" / f"{name}.png")
        assert [NUTS[instance["bbox_label"]] for instance in data["instances"]] == ["fig"]
    sample = datasets["train"][0]["data_samples"].gt_instances
    assert ("masks" in sample) == ("atss" not in base)


@pytest.mark.parametrize("base", ["mask_rcnn_swin_t_1x_coco.py", "cascade_swin_t_coco.py"])
def test_boxes_only(base, nuts, tmp_path):
    for name in "ab":
        content = json.loads((nuts / f"{name}.json").read_text())
        del content["annotations"][0]["segmentation"]
        (nuts / f"{name}.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="masks=False in own_data"):
        check_data(apply_own_data(nuts_config(tmp_path, base)))

    cfg = apply_own_data(nuts_config(tmp_path, base, "masks=False"))
    assert check_data(cfg, splits=("train", "val", "test")) == []
    for dataset in build_datasets(cfg).values():
        assert "masks" not in dataset[0]["data_samples"].gt_instances
    with DefaultScope.overwrite_default_scope("mmdet"), torch.device("meta"):
        model = MODELS.build(cfg.model)
    assert not model.with_mask
    assert cfg.val_evaluator.metric == cfg.test_evaluator.metric == ["bbox"]


def test_masks_can_be_removed_from_any_config():
    cfg = drop_masks(Config.fromfile(CONFIGS / "cascade_swin_t_coco.py"))
    text = str(cfg.to_dict())
    assert "'with_mask': True" not in text
    assert "mask_head" not in text
    assert "segm" not in str(cfg.val_evaluator) + str(cfg.test_evaluator)


def test_config_can_be_dumped_and_reloaded(nuts, tmp_path):
    cfg = apply_own_data(nuts_config(tmp_path, "mask_rcnn_swin_t_1x_coco.py"))
    cfg.dump(tmp_path / "dumped.py")
    again = Config.fromfile(tmp_path / "dumped.py")
    assert again.to_dict() == cfg.to_dict()
    assert apply_own_data(again).to_dict() == cfg.to_dict()


def test_test_set_may_differ_from_the_validation_set(nuts, tmp_path):
    more = "test=dict(ann_file='a.json', img_dir='pictures')"
    cfg = apply_own_data(nuts_config(tmp_path, "mask_rcnn_swin_t_1x_coco.py", more))
    assert cfg.val_dataloader.dataset.ann_file == "b.json"
    assert cfg.test_dataloader.dataset.ann_file == "a.json"
    assert cfg.test_evaluator.ann_file == str(nuts / "a.json")


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ("root='nuts'", "no data root nuts: put the data there"),
        ("train=1, val=1", "own_data lacks root"),
        ("root=3", "own_data.root is 3: give the folder"),
        ("root='x', classes='fig'", r"classes is a string: list names, as in \('fig',\)"),
        ("root='x', train='a', val='b'", r"own_data.train is 'a': it takes a dict\(...\)"),
        ("root='x', train=None, val=None", "no data root x"),
        ("root='x', clases=1", "own_data has no clases: it takes classes, masks, root"),
        (
            "root='x', train=dict(ann_file='a'), val=dict(ann_file='a')",
            "own_data.train has ann_file: it takes exactly ann_file, img_dir",
        ),
        (
            "root='x', train=dict(ann_file='a', img_dir='b'), val=dict(ann_file='a', img_dir='b')",
            "no annotation file x/a",
        ),
        (
            "root='x', train=dict(ann_file='a', img_dir='b'), val=dict(ann_file='a', img_dir='b'), "
            "unlabeled=dict(ann_file='a', img_dir='b')",
            "this config trains on images with labels alone",
        ),
    ],
)
def test_invalid_own_data_raises(own, message, tmp_path):
    with pytest.raises(UserError, match=message):
        apply_own_data(own_config(tmp_path, "mask_rcnn_swin_t_1x_coco.py", own))


def test_images_without_labels(nuts, tmp_path):
    """Soft Teacher's; their file lists images alone, and without it nothing is trained."""
    content = json.loads((nuts / "b.json").read_text())
    del content["annotations"]
    (nuts / "images.json").write_text(json.dumps(content))
    more = "unlabeled=dict(ann_file='images.json', img_dir='pictures')"
    cfg = apply_own_data(nuts_config(tmp_path, "soft_teacher_swin_t_coco.py", more))
    assert [d.ann_file for d in cfg.train_dataloader.dataset.datasets] == ["a.json", "images.json"]
    assert cfg.model.detector.roi_head.bbox_head.num_classes == 3
    assert check_data(cfg, ("train", "val", "test")) == []
    with pytest.raises(UserError, match=r"own_data lacks unlabeled: .*file lists them"):
        apply_own_data(nuts_config(tmp_path, "soft_teacher_swin_t_coco.py"))


OF_EACH_KIND = [
    *("cascade_swin_nano_shapes", "htc_pp_swin_l_coco", "htc_pp_without_semantic_swin_b_coco"),
    *("mask_reppoints_v2_swin_t_coco", "sparse_rcnn_swin_t_coco", "danet_r101_ade20k"),
    *("ocrnet_hrnet_w48_ade20k", "setr_t_large_ade20k", "upernet_swin_nano_shapes"),
]


@pytest.mark.parametrize("name", OF_EACH_KIND)
def test_configs_take_own_data(name, nuts, tmp_path):
    path = CONFIGS / f"{name}.py"
    for folder in ("img", "seg"):
        (nuts / folder).mkdir()
    cv2.imwrite(str(nuts / "img" / "a.jpg"), np.zeros((64, 96, 3), np.uint8))
    labels = np.arange(64 * 96).reshape(64, 96) % 3
    labels[0] = 255
    cv2.imwrite(str(nuts / "seg" / "a.png"), labels)
    if Config.fromfile(path).default_scope == "mmseg":
        part = "dict(img_dir='img', seg_dir='seg')"
        own = f"root={str(nuts)!r}, train={part}, val={part}, classes={NUTS}"
        cfg = own_config(tmp_path, path.name, own)
    else:
        cfg = nuts_config(tmp_path, path.name)
    apply_own_data(cfg)
    if name == "htc_pp_swin_l_coco":
        with pytest.raises(UserError, match="use a config htc_pp_without_semantic"):
            check_data(cfg, ["train"])
        return
    assert check_data(cfg, ("train", "val", "test")) == []
    for dataset in build_datasets(cfg).values():
        assert dataset.metainfo["classes"] == NUTS
        assert dataset[0]["inputs"].ndim == 3
    weights = [loss.get("class_weight") for loss in config_tree.mappings(cfg.model.to_dict())]
    assert not [w for w in weights if isinstance(w, list) and len(w) != len(NUTS)]


def test_annotation_files_may_begin_with_a_byte_order_mark(nuts, tmp_path):
    for name in "ab":
        text = (nuts / f"{name}.json").read_text()
        (nuts / f"{name}.json").write_text(text, encoding="utf-8-sig")
    cfg = apply_own_data(nuts_config(tmp_path, "mask_rcnn_swin_t_1x_coco.py"))
    assert check_data(cfg, ("train", "val")) == []
    for dataset in build_datasets(cfg).values():
        assert len(dataset) == 1
    METRICS.build(cfg.val_evaluator)


def test_segmentor_on_own_classes(tmp_path):
    root = tmp_path / "roads"
    for folder in ("img", "seg"):
        (root / folder).mkdir(parents=True)
    cv2.imwrite(str(root / "img" / "a.jpeg"), np.zeros((64, 96, 3), np.uint8))
    cv2.imwrite(str(root / "seg" / "a_l.png"), np.eye(64, 96, dtype=np.uint8))
    part = "dict(img_dir='img', seg_dir='seg')"
    own = f"root={str(root)!r}, train={part}, val={part}, img_suffix='.jpeg', seg_suffix='_l.png'"
    with pytest.raises(UserError, match="own_data lacks classes"):
        apply_own_data(own_config(tmp_path, "upernet_swin_t_ade20k.py", own))
    own += ", classes=('road', 'car')"
    cfg = apply_own_data(own_config(tmp_path, "upernet_swin_t_ade20k.py", own))
    assert check_data(cfg, splits=("train", "val", "test")) == []
    assert cfg.model.decode_head.num_classes == cfg.model.auxiliary_head.num_classes == 2
    for dataset in build_datasets(cfg).values():
        assert dataset.metainfo["classes"] == ("road", "car")
        labels = dataset[0]["data_samples"].gt_sem_seg.data
        assert set(labels.unique().tolist()) <= {0, 1, 255}
        assert 0 in labels


def test_root_alone_is_recognised(tmp_path, capsys):
    """A YOLO data set: trained and evaluated without masks, and predicted with where it is not."""
    root = tmp_path / "fruit"
    for split in ("train", "val"):
        for folder in ("images", "labels"):
            (root / folder / split).mkdir(parents=True)
        cv2.imwrite(str(root / "images" / split / "a.png"), np.zeros((64, 96, 3), np.uint8))
        (root / "labels" / split / "a.txt").write_text("1 0.5 0.5 0.5 0.5\n")
    (root / "data.yaml").write_text("names: [fig, date]\ntrain: images/train\nval: images/val\n")
    cfg = own_config(tmp_path, "mask_rcnn_swin_t_1x_coco.py", f"root={str(root)!r}")
    apply_own_data(cfg)
    assert "is a YOLO data set" in capsys.readouterr().out
    assert check_data(cfg, splits=("train", "val", "test")) == []
    assert "mask_head" not in cfg.model.roi_head
    for dataset in build_datasets(cfg).values():
        sample = dataset[0]["data_samples"].gt_instances
        assert sample.labels.tolist() == [1]
    METRICS.build(cfg.val_evaluator)

    Path(cfg.train_dataloader.dataset.ann_file).unlink()
    with pytest.raises(UserError, match="which own_data makes: take the config that has own_data"):
        check_data(cfg)
    shutil.rmtree(root)
    for more in ("masks=False", "masks=True"):
        own = f"root={str(root)!r}, {more}"
        elsewhere = own_config(tmp_path, "mask_rcnn_swin_t_1x_coco.py", own)
        apply_own_data(elsewhere, ("fig", "date"))
        assert elsewhere.model.roi_head.bbox_head.num_classes == 2
        assert ("mask_head" in elsewhere.model.roi_head) == ("True" in more)
    for classes, message in (
        (("fig", "date"), "whether its objects have masks"),
        (None, "no data root"),
    ):
        with pytest.raises(UserError, match=message):
            apply_own_data(
                own_config(tmp_path, "mask_rcnn_swin_t_1x_coco.py", f"root={str(root)!r}"), classes
            )


def test_segmentor_with_label_maps_in_colour(tmp_path, capsys):
    root = tmp_path / "roads"
    colours = np.zeros((64, 96, 3), np.uint8)
    colours[:, :48] = (0, 64, 128)  # BGR, as OpenCV writes it
    for split in ("train", "val"):
        for folder in ("images", "labels"):
            (root / folder / split).mkdir(parents=True)
        cv2.imwrite(str(root / "images" / split / "a.JPG"), colours)
        cv2.imwrite(str(root / "labels" / split / "a_label.png"), colours)
    own = f"root={str(root)!r}, classes=('car', 'road'), palette=((128, 64, 0), (0, 0, 0))"
    cfg = apply_own_data(own_config(tmp_path, "upernet_swin_t_ade20k.py", own))
    assert "converted to indices of the classes, are in" in capsys.readouterr().out
    assert check_data(cfg, splits=("train", "val", "test")) == []
    assert cfg.model.decode_head.num_classes == 2
    datasets = build_datasets(cfg)
    assert datasets["val"].metainfo["palette"] == [[128, 64, 0], [0, 0, 0]]
    labels = datasets["train"][0]["data_samples"].gt_sem_seg.data
    assert set(labels.unique().tolist()) <= {0, 1, 255}
    found = datasets["val"].get_data_info(0)
    assert found["img_path"] == str(root / "images/val/a.JPG")
    assert (cv2.imread(found["seg_map_path"], cv2.IMREAD_UNCHANGED)[0] == [0] * 48 + [1] * 48).all()


def test_real_photographs(shared, tmp_path):
    part = "dict(ann_file='trainval.json', img_dir='images')"
    own = f"root={str(shared / 'data' / 'fruits_nuts')!r}, train={part}, val={part}"
    cfg = apply_own_data(own_config(tmp_path, "mask_rcnn_swin_t_1x_coco.py", own))
    assert check_data(cfg) == []
    dataset = build_datasets(cfg)["train"]
    assert len(dataset) == 18
    assert dataset.metainfo["classes"] == ("date", "fig", "hazelnut")
    assert len(dataset[0]["data_samples"].gt_instances.masks)
