"""Folders of label maps, as people have them: indices, palettes, colours, any name and suffix."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from swin_dense.datasets.formats.recognise_maps import complete_label_maps
from swin_dense.errors import UserError

LABELS = np.array([[0, 1, 1], [0, 1, 255]], np.uint8)
COLOURS = {0: (0, 0, 0), 1: (128, 64, 0), 255: (224, 224, 192)}


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def save(path: Path, labels=LABELS, mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(labels, np.uint8))
    if mode == "P":
        image.putpalette([channel for i in range(256) for channel in COLOURS.get(i, (9, 9, 9))])
    elif mode == "RGB":
        lookup = np.zeros((256, 3), np.uint8)
        lookup[list(COLOURS)] = list(COLOURS.values())
        image = Image.fromarray(lookup[labels])
    image.save(path)


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", LABELS.shape[::-1]).save(path)


def completed(root: Path, **more) -> tuple[dict, list[str]]:
    own = {"root": str(root), **more}
    return own, complete_label_maps(own)


def loaded(own: dict, split: str) -> dict[str, np.ndarray]:
    """The label maps that mmseg would read, by the name of the image."""
    part, found = own[split], {}
    images, maps = (Path(own["root"], part[key]) for key in ("img_dir", "seg_dir"))
    if "ann_file" in part:
        names = Path(part["ann_file"]).read_text().split()
    else:
        files = images.rglob(f"*{own['img_suffix']}")
        names = [str(f.relative_to(images))[: -len(own["img_suffix"])] for f in files]
    for name in names:
        assert (images / f"{name}{own['img_suffix']}").is_file()
        found[Path(name).name] = np.asarray(Image.open(maps / f"{name}{own['seg_suffix']}"))
    return found


@pytest.mark.parametrize(
    ("image", "label_map"),
    [
        ("images/{}/a.jpg", "labels/{}/a.png"),
        ("img_dir/{}/a.jpeg", "ann_dir/{}/a_mask.tif"),
        ("{}/images/a.bmp", "{}/masks/a.png"),
        ("{}/a.png", "{}_labels/a_L.png"),
    ],
)
@pytest.mark.parametrize("mode", ["L", "P"])
def test_indices_in_usual_folders_are_used_as_they_are(image, label_map, mode, tmp_path):
    for split in ("training", "validation"):
        picture(tmp_path / image.format(split))
        save(tmp_path / label_map.format(split), mode=mode)
    own, notes = completed(tmp_path, classes=("road", "car"))
    assert len(notes) == 1
    assert "(1 train, 1 val images, 2 classes)" in notes[0]
    assert "ann_file" not in own["train"]
    for split in ("train", "val"):
        np.testing.assert_array_equal(loaded(own, split)["a"], LABELS)


@pytest.mark.parametrize("table", ["class_dict.csv", "labelmap.txt", "config"])
@pytest.mark.parametrize("mode", ["RGB", "P"])
def test_colours_become_indices(table, mode, tmp_path):
    """In the order of the table, not of the palette; borders as in Pascal VOC are ignored."""
    for name in "abc":
        picture(tmp_path / f"JPEGImages/{name}.jpg")
        save(tmp_path / f"SegmentationClass/{name}.png", mode=mode)
    write(tmp_path / "ImageSets/Segmentation/train.txt", "a\nb\n")
    write(tmp_path / "ImageSets/Segmentation/val.txt", "c\n")
    more = {}
    if table == "class_dict.csv":
        write(tmp_path / table, "name,r,g,b\ncar,128,64,0\nroad,0,0,0\n")
    elif table == "labelmap.txt":
        write(tmp_path / table, "# label:color_rgb:parts:actions\ncar:128,64,0::\nroad:0,0,0::\n")
    else:
        more = {"classes": ("car", "road"), "palette": ((128, 64, 0), (0, 0, 0))}
    own, notes = completed(tmp_path, **more)
    assert own["classes"] == ("car", "road")
    assert own["palette"] == [[128, 64, 0], [0, 0, 0]]
    assert sorted(loaded(own, "train")) == ["a.jpg", "b.jpg"]
    expected = np.array([[1, 0, 0], [1, 0, 255]])
    np.testing.assert_array_equal(loaded(own, "val")["c.jpg"], expected)
    assert own["val"]["seg_dir"].removesuffix("/label_maps") in notes[-1]


def test_roboflow_masks_with_values(tmp_path):
    for split in ("train", "valid"):
        for name in "ab":
            picture(tmp_path / split / f"{name}.jpg")
            save(tmp_path / split / f"{name}_mask.png", np.where(LABELS == 1, 7, 2))
        write(tmp_path / split / "_classes.csv", "Pixel Value, Class\n2, road\n7, car\n")
    own, _ = completed(tmp_path)
    assert own["classes"] == ("road", "car")
    np.testing.assert_array_equal(loaded(own, "val")["b.jpg"], LABELS == 1)


def test_suffixes_may_differ_and_images_be_held_out(tmp_path):
    for i, suffix in enumerate([".jpg", ".png", ".JPEG", ".tif", ".bmp"]):
        picture(tmp_path / f"images/{i}{suffix}")
        save(tmp_path / f"masks/{i}{'.png' if i else '.bmp'}")
    own, notes = completed(tmp_path, classes=("road", "car"))
    assert "1 of the 5 images" in " ".join(notes)
    maps = [loaded(own, split) for split in ("train", "val")]
    assert [len(part) for part in maps] == [4, 1]
    assert not set(maps[0]) & set(maps[1])
    for labels in (maps[0] | maps[1]).values():
        np.testing.assert_array_equal(labels, LABELS)


def test_zero_as_not_labelled(tmp_path):
    for split in ("train", "val"):
        picture(tmp_path / f"images/{split}/a.jpg")
        save(tmp_path / f"labels/{split}/a.png", [[0, 1, 2], [0, 1, 2]])
    own, notes = completed(tmp_path, classes=("road", "car"))
    assert own["reduce_zero_label"] is True
    assert "0 is taken as not labelled" in notes[-1]
    for more in ({"classes": ("sky", "road", "car")}, {"reduce_zero_label": False}):
        own, notes = completed(tmp_path, **{"classes": ("road", "car"), **more})
        assert not own.get("reduce_zero_label")
        assert len(notes) == 1


def test_grey_masks_saved_in_colour(tmp_path):
    for split in ("train", "val"):
        picture(tmp_path / f"images/{split}/a.jpg")
        save(tmp_path / f"labels/{split}/a.png", np.repeat((LABELS == 1)[..., None], 3, 2))
    own, _ = completed(tmp_path, classes=("road", "car"))
    np.testing.assert_array_equal(loaded(own, "train")["a.jpg"], LABELS == 1)


def test_converted_once_and_again_when_changed(tmp_path):
    for split in ("train", "val"):
        picture(tmp_path / f"images/{split}/a.jpg")
        save(tmp_path / f"labels/{split}/a.png", mode="RGB")
    write(tmp_path / "class_dict.csv", "name,r,g,b\nroad,0,0,0\ncar,128,64,0\n")
    parts = [completed(tmp_path)[0]["train"] for _ in range(2)]
    assert parts[0] == parts[1]
    save(tmp_path / "labels/train/a.png", 1 - (LABELS == 1), mode="RGB")
    changed = completed(tmp_path)[0]
    assert changed["train"] != parts[0]
    np.testing.assert_array_equal(loaded(changed, "train")["a.jpg"], LABELS != 1)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda r: save(r / "labels/val/a.png", mode="RGB"),
            "a.png has colours, and nothing tells",
        ),
        (lambda r: (r / "labels/val/a.png").unlink(), "a.jpg has no label map a"),
        (lambda r: picture(r / "labels/val/a.jpg"), "a.jpg is a JPEG, which changes values"),
        (
            lambda r: (write(r / "class_dict.csv", "road,1,1,1\ncar,x,2,2"), None),
            "class_dict.csv line 2: 'x' is no whole number",
        ),
        (
            lambda r: (
                write(r / "class_dict.csv", "road,0,0,0\ncar,9,9,9"),
                save(r / "labels/val/a.png", mode="RGB"),
            ),
            r"has 1 colours that no class has, the first is \(128, 64, 0\) at x 1, y 0",
        ),
        (
            lambda r: (r / "classes.txt").write_bytes(b"road\n\xff"),
            r"classes.txt is not text \(byte 5\)",
        ),
        (
            lambda r: write(r / "_classes.csv", "0,a\n3,b"),
            "has the value 1, which .* does not name",
        ),
    ],
    ids=["colours", "missing map", "JPEG", "table", "strange colour", "no text", "strange value"],
)
def test_what_cannot_be_meant(spoil, message, tmp_path):
    for split in ("train", "val"):
        picture(tmp_path / f"images/{split}/a.jpg")
        save(tmp_path / f"labels/{split}/a.png")
    spoil(tmp_path)
    if message.startswith("a.jpg is a JPEG"):
        (tmp_path / "labels/val/a.png").unlink()
    own = {} if list(tmp_path.glob("*cl*s*")) else {"classes": ("road", "car")}
    with pytest.raises(UserError, match=message):
        completed(tmp_path, **own)


@pytest.mark.parametrize(
    ("palette", "message"), [((1, 2), "has no colours"), (((0, 0, 0),), "2 classes and 1 colours")]
)
def test_palettes_that_cannot_be_meant(palette, message, tmp_path):
    for split in ("train", "val"):
        picture(tmp_path / f"images/{split}/a.jpg")
        save(tmp_path / f"labels/{split}/a.png", mode="RGB")
    with pytest.raises(UserError, match=message):
        completed(tmp_path, classes=("road", "car"), palette=palette)
