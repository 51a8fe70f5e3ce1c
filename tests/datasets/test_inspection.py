"""What looks like a mistake in a data set."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from mmengine import Config
from PIL import Image

from swin_dense.datasets.inspection import Box, Item, duplicates, read_items, suspicions

SIZE = (100, 80)


def kinds(*boxes: Box, size=SIZE) -> list[str]:
    item = Item(Path("a.jpg"), size, list(boxes))
    return [one.kind for one in suspicions([item], ("fig", "date"), "train")]


def box(x=10.0, y=10.0, width=30.0, height=20.0, label=0, is_crowd=False) -> Box:
    return Box(label, x, y, width, height, 7, is_crowd)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (box(), []),
        (box(width=4, height=4), []),
        (box(width=3.9), ["tiny"]),
        (box(0, 0, 100, 76), []),  # exactly 95% of the image
        (box(0, 0, 100, 76.1), ["huge"]),
        (box(0, 0, 100, 80, is_crowd=True), []),
        (box(-1, 10), []),  # rounding
        (box(-1.5, 10), ["outside"]),
        (box(80, 10), ["outside"]),
        (box(10, 70), ["outside"]),
    ],
)
def test_boxes(found, expected):
    assert kinds(found) == expected


def test_labelled_twice():
    one = box(0, 0, 40, 40)
    assert kinds(one, box(0, 0, 40, 39)) == ["labelled twice"]
    assert kinds(one, box(0, 0, 40, 37)) == []  # an IoU of 0.925
    assert kinds(one, box(0, 0, 40, 40, label=1)) == []
    assert kinds(one, box(0, 0, 40, 40, is_crowd=True)) == []
    assert kinds(one, one, size=None) == []  # of an image that cannot be read


def test_images_without_labels():
    assert kinds() == ["unlabelled"]
    maps = [Item(Path("a.jpg"), SIZE, pixels=Counter(counts)) for counts in ({1: 9}, {})]
    assert [one.kind for one in suspicions(maps, ("road", "car"), "val")] == ["unlabelled"]


def photo(seed: int) -> Image.Image:
    """Soft shapes, as photographs have, so that sizes and compression change little."""
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return Image.fromarray(small).resize((320, 240), Image.Resampling.BICUBIC)


def test_duplicates_and_leaks(tmp_path):
    files = {
        name: tmp_path / name for name in ("a.png", "b.png", "c.jpg", "d.png", "e.png", "f.png")
    }
    photo(0).save(files["a.png"])
    photo(0).save(files["b.png"])  # the same bytes
    photo(0).resize((160, 120)).save(files["c.jpg"], quality=80)
    photo(1).save(files["d.png"])
    Image.new("RGB", (50, 50)).save(files["e.png"])
    Image.new("RGB", (60, 60)).save(files["f.png"])  # as black, and not the same

    def items(*names: str) -> list[Item]:
        return [Item(files[name], None) for name in names]

    seen: list[int] = []
    parts = {"train": items("a.png", "b.png", "d.png", "e.png"), "val": items("c.jpg", "f.png")}
    found = duplicates(parts, lambda: seen.append(1))
    assert [(one.kind, [path.name for path in one.paths]) for one in found] == [
        ("duplicate", ["a.png", "b.png"]),
        ("leak", ["a.png", "c.jpg"]),
    ]
    assert [one.what for one in found] == [
        "the same file in train",
        "the same picture in train and val",
    ]
    assert len(seen) == 6
    same = duplicates({"train": items("d.png"), "val": items("d.png")})
    assert [one.kind for one in same] == ["leak"]


def test_coco_items(tmp_path):
    content = {
        "images": [{"id": 3, "file_name": "a.jpg", "width": 100, "height": 80}],
        "categories": [{"id": 5, "name": "nut"}, {"id": 9, "name": "fig"}],
        "annotations": [
            {"id": 1, "image_id": 3, "category_id": 9, "bbox": [1, 2, 3, 4], "segmentation": []},
            {"id": 2, "image_id": 3, "category_id": 5, "bbox": [1, 2, 3, 4], "iscrowd": 1},
        ],
    }
    (tmp_path / "all.json").write_text(json.dumps(content))
    dataset = {
        "type": "mmdet.CocoDataset",
        "data_root": str(tmp_path),
        "ann_file": "all.json",
        "data_prefix": {"img": "images"},
        "metainfo": {"classes": ("fig",)},
    }
    (item,) = read_items(Config({"train_dataloader": {"dataset": dataset}}), "train")
    assert item.path == tmp_path / "images" / "a.jpg"
    assert item.boxes == [Box(0, 1, 2, 3, 4, 1, False)]


def test_label_map_items(tmp_path):
    Image.new("RGB", (4, 2)).save(tmp_path / "a.jpg")
    labels = np.array([[0, 1, 1, 2], [2, 2, 2, 255]], np.uint8)
    Image.fromarray(labels).save(tmp_path / "a.png")
    dataset = {
        "type": "mmseg.BaseSegDataset",
        "data_root": str(tmp_path),
        "data_prefix": {"img_path": "", "seg_map_path": ""},
        "metainfo": {"classes": ("road", "car")},
        "reduce_zero_label": True,
    }
    (item,) = read_items(Config({"train_dataloader": {"dataset": dataset}}), "train")
    assert item.size == (4, 2)
    assert item.pixels == {0: 2, 1: 4}
