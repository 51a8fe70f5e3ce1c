"""YOLO, Pascal VOC, Roboflow and COCO data sets, as people have them, become COCO files."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from swin_dense.datasets.formats.coco import read_folder
from swin_dense.datasets.formats.recognise import complete_boxes, read_boxes
from swin_dense.errors import UserError

SIZE = (40, 30)  # width and height of every image
YAML = "names: [fig, date]\ntrain: train/images\nval: valid/images\n"
BOX, POLYGON = "1 0.5 0.5 0.5 0.4\n", "0 0.25 0.2 0.75 0.2 0.75 0.8\n"
XML = (
    "<annotation><filename>{name}.jpg</filename>"
    "<size><width>40</width><height>30</height><depth>3</depth></size>{objects}</annotation>"
)
OBJECT = (
    "<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>11</xmin>"
    "<ymin>7</ymin><xmax>30</xmax><ymax>24</ymax></bndbox></object>"
)


def write(path: Path, content) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def draw(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.zeros((*SIZE[::-1], 3), np.uint8))


def yolo(root: Path, description: str = YAML, labels: str = BOX) -> Path:
    """Ultralytics' and Roboflow's layout: two images for training, one of them without objects."""
    write(root / "data.yaml", description)
    draw(root / "train/images/a.jpg", root / "train/images/b.png", root / "valid/images/c.jpg")
    write(root / "train/labels/a.txt", labels)
    write(root / "valid/labels/c.txt", labels)
    return root


def voc(root: Path, **objects: str) -> Path:
    for name in objects or {"a": "", "b": ""}:
        draw(root / f"JPEGImages/{name}.jpg")
        each = objects.get(name) or OBJECT.format(name="fig", difficult=0)
        write(root / f"Annotations/{name}.xml", XML.format(name=name, objects=each))
    return root


def coco(names, categories, annotations=None) -> dict:
    images = [
        {"id": i, "file_name": n, "width": SIZE[0], "height": SIZE[1]} for i, n in enumerate(names)
    ]
    one = {"bbox": [10, 6, 20, 18], "area": 360, "iscrowd": 0, "category_id": 1}
    one["segmentation"] = [[10, 6, 30, 6, 30, 24, 10, 24]]
    return {
        "images": images,
        "annotations": [
            {**one, "id": 10 + i, "image_id": i} | (annotations or {}) for i in range(len(images))
        ],
        "categories": [{"id": i, "name": n} for i, n in enumerate(categories, start=1)],
    }


def load(own: dict, split: str) -> dict:
    return json.loads(Path(own["root"], own[split]["ann_file"]).read_text())


def completed(root: Path, **more) -> tuple[dict, list[str]]:
    own = {"root": str(root), **more}
    notes = complete_boxes(own)
    for split in ("train", "val"):
        for image in load(own, split)["images"]:
            assert Path(root, own[split]["img_dir"], image["file_name"]).is_file()
    return own, notes


def test_yolo_boxes(tmp_path):
    own, notes = completed(yolo(tmp_path / "fruit"))
    assert own["classes"] == ("fig", "date")
    assert own["masks"] is False
    train = load(own, "train")
    assert [i["file_name"] for i in train["images"]] == ["train/images/a.jpg", "train/images/b.png"]
    (found,) = train["annotations"]  # the box (0.5, 0.5, 0.5, 0.4) of 40 x 30 pixels
    assert found["bbox"] == [10, 9, 20, 12]
    assert (found["area"], found["image_id"], found["category_id"]) == (240, 1, 2)
    assert "is a YOLO data set (2 train, 1 val images): converted to" in notes[0]
    assert own["train"]["ann_file"] in notes[0]
    assert "boxes alone are trained" in notes[1]


def test_yolo_polygons(tmp_path):
    own, _ = completed(yolo(tmp_path, labels=POLYGON + POLYGON.replace("0 ", "1 ", 1)))
    assert "masks" not in own
    found = load(own, "train")["annotations"][0]
    assert found["segmentation"] == [[10, 6, 30, 6, 30, 24]]
    assert found["bbox"] == [10, 6, 20, 18]
    assert found["area"] == 180  # half of 20 x 18


def test_same_data_same_file_and_other_data_another(tmp_path):
    files = [completed(yolo(tmp_path))[0]["train"]["ann_file"] for _ in range(2)]
    assert files[0] == files[1]
    assert completed(yolo(tmp_path, labels=BOX + POLYGON))[0]["train"]["ann_file"] != files[0]


@pytest.mark.parametrize(
    "description",
    [
        "path: /content/elsewhere\nnames: {0: fig, 1: date}\nnc: 2\ntrain: train/images\n"
        "val: [valid/images]\ntest:",
        "names: ['fig', 'date']\ntrain: ../train/images\nval: ../valid/images\ntest: ../test/images"
        "\nroboflow: {version: 1}",
        "path: .\nnames: [fig, date]\ntrain: train.txt\nvalidation: valid/images\n",
    ],
    ids=["moved", "Roboflow", "list"],
)
def test_yolo_descriptions(description, tmp_path):
    write(tmp_path / "train.txt", "./train/images/a.jpg\ntrain/images/b.png\n")
    own, _ = completed(yolo(tmp_path, description))
    assert [len(load(own, split)["images"]) for split in ("train", "val")] == [2, 1]
    assert len(load(own, "val")["annotations"]) == 1


def test_yolo_without_description(tmp_path, monkeypatch):
    """What labelImg writes: images and labels in one folder, of which some are held out."""
    draw(*(tmp_path / f"{i}.jpg" for i in range(10)))
    for i in range(10):
        write(tmp_path / f"{i}.txt", BOX)
    write(tmp_path / "classes.txt", "fig\ndate\n")
    own, notes = completed(tmp_path)
    names = [{i["file_name"] for i in load(own, split)["images"]} for split in ("train", "val")]
    assert [len(part) for part in names] == [8, 2]
    assert not names[0] & names[1]
    assert "2 of the 10 images" in " ".join(notes)
    monkeypatch.chdir(tmp_path.parent)  # as README has it: a path below the process's folder
    assert len(read_boxes(Path(tmp_path.name)).contents["train"]["images"]) == 8


def test_yolo_pose_gives_boxes(tmp_path):
    pose = BOX.strip() + " 0.4 0.4 2 0 0 0\n"
    own, _ = completed(yolo(tmp_path, YAML + "kpt_shape: [2, 3]\n", pose))
    assert load(own, "train")["annotations"][0]["bbox"] == [10, 9, 20, 12]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (BOX + "0 0.5 0.5 0.5\n", "a.txt line 2: 4 numbers: a box has 5"),
        ("0 0.5 0.5 0.5 0.2 0.9\n", "line 1: 6 numbers"),
        ("2 0.5 0.5 0.5 0.4\n", "line 1: the class is 2, but 2 classes are numbered 0 to 1"),
        ("\n\nfig 0.5 0.5 0.5 0.4\n", "line 3: 'fig' is not a number"),
        ("0 nan 0.5 0.5 0.4\n", "line 1: 'nan' is not a number"),
        ("0 20 15 10 8\n", "line 1: 20 is outside of the image: coordinates are fractions"),
    ],
)
def test_malformed_yolo_labels(labels, message, tmp_path):
    with pytest.raises(UserError, match=message):
        read_boxes(yolo(tmp_path, labels=labels))


@pytest.mark.parametrize(
    ("description", "message"),
    [
        (YAML + "nc: 3\n", "nc is 3, but names has 2"),
        (YAML.replace("date", "fig"), "names has 'fig' twice"),
        (YAML.replace("[fig, date]", "{1: fig, 2: date}"), "number it from 0"),
        (YAML.replace("valid/images", "val/images"), r"there is no val/images \(val\) in"),
        ("names: [fig\ntrain: x", "data.yaml is not plain YAML"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: !!python/object:os.system []", "not plain YAML"),
    ],
)
def test_malformed_yolo_descriptions(description, message, tmp_path):
    with pytest.raises(UserError, match=message):
        read_boxes(yolo(tmp_path, description))


def test_voc(tmp_path):
    hard = OBJECT.format(name="date", difficult=1) + OBJECT.format(name="fig", difficult=0)
    voc(tmp_path, a=hard, b="", c="")
    write(tmp_path / "ImageSets/Main/train.txt", "a\nb\n")
    write(tmp_path / "ImageSets/Main/val.txt", "c\n")
    own, notes = completed(tmp_path)
    assert own["classes"] == ("date", "fig")
    train = load(own, "train")
    assert [i["file_name"] for i in train["images"]] == ["JPEGImages/a.jpg", "JPEGImages/b.jpg"]
    assert [a["iscrowd"] for a in train["annotations"]] == [1, 0, 0]
    assert train["annotations"][0]["bbox"] == [10, 6, 20, 18]  # pixels 11 to 30 and 7 to 24, from 1
    assert "1 difficult objects become crowds" in notes[-1]


def test_voc_of_roboflow_and_in_its_devkit(tmp_path):
    for folder in ("train", "valid"):
        draw(tmp_path / folder / "a.jpg")
        text = XML.format(name="a", objects=OBJECT.format(name="fig", difficult=0))
        write(tmp_path / folder / "a.xml", text)
    own, _ = completed(tmp_path)
    assert load(own, "val")["images"][0]["file_name"] == "valid/a.jpg"
    voc(tmp_path / "devkit" / "VOC2012")
    own, _ = completed(tmp_path / "devkit")
    assert own["train"]["img_dir"] == "VOC2012"


@pytest.mark.parametrize("images", ["", "images/"])
def test_voc_as_labelling_tools_write_it(images, tmp_path):
    """XML files beside the images, or in a folder beside theirs; labelImg adds an attribute."""
    for name in ("a", "b"):
        draw(tmp_path / f"{images}{name}.jpg")
        text = XML.format(name=name, objects=OBJECT.format(name="fig", difficult=0))
        xml = tmp_path / ("annotations" if images else "") / f"{name}.xml"
        write(xml, text.replace("<annotation>", '<annotation verified="yes">'))
    data = read_boxes(tmp_path)
    names = [i["file_name"] for c in data.contents.values() for i in c["images"]]
    assert sorted(names) == [f"{images}a.jpg", f"{images}b.jpg"]


def test_xml_files_of_other_formats_are_no_voc(tmp_path):
    draw(tmp_path / "images/a.jpg")
    write(tmp_path / "annotations.xml", "<annotations><version>1.1</version></annotations>")
    assert read_boxes(tmp_path) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation>\n<object>", "a.xml line 2: not XML"),
        ("<!DOCTYPE a [<!ENTITY b 'c'>]><annotation/>", "a.xml has a document type declaration"),
        (
            XML.format(name="a", objects=OBJECT.replace("11", "x").format(name="f", difficult=0)),
            "xmin",
        ),
        (
            XML.replace(">40<", ">30<").format(name="a", objects=OBJECT),
            "is for 30 x 30 pixels, but",
        ),
    ],
)
def test_malformed_voc(text, message, tmp_path):
    voc(tmp_path)
    write(tmp_path / "Annotations/a.xml", text)
    with pytest.raises(UserError, match=message):
        read_boxes(tmp_path)


def test_roboflow_coco(tmp_path):
    """Its first category is the group of all others, and no object has it."""
    for folder in ("train", "valid"):
        draw(tmp_path / folder / "a.jpg")
        content = coco(["a.jpg"], ["fig", "date"])
        for category in content["categories"]:
            category["supercategory"] = "fruit"
        content["categories"].insert(0, {"id": 0, "name": "fruit", "supercategory": "none"})
        write(tmp_path / folder / "_annotations.coco.json", content)
    own, notes = completed(tmp_path)
    assert own["classes"] == ("fig", "date")
    assert own["train"] == {"ann_file": "train/_annotations.coco.json", "img_dir": "train"}
    assert "is a COCO data set" in notes[0]
    assert "_annotations.coco.json: fruit is the group of other categories" in notes[1]
    assert len(notes) == 2
    data = read_folder(tmp_path)
    for content in data.contents.values():
        assert [category["name"] for category in content["categories"]] == ["fig", "date"]
    assert "fruit is the group of other categories" in data.notes[0]


def test_coco_in_its_own_layout_and_one_file(tmp_path):
    draw(tmp_path / "train2017/a.jpg", tmp_path / "val2017/b.jpg")
    write(tmp_path / "annotations/instances_train2017.json", coco(["a.jpg"], ["fig"]))
    write(tmp_path / "annotations/instances_val2017.json", coco(["b.jpg"], ["fig"]))
    write(tmp_path / "annotations/captions_val2017.json", coco(["b.jpg"], ["fig"]))
    own, _ = completed(tmp_path)
    assert own["val"]["img_dir"] == "val2017"
    one = tmp_path / "one"
    draw(one / "images/a.jpg", one / "images/b.jpg")
    write(one / "result.json", coco(["a.jpg", "b.jpg"], ["fig"]))
    own, notes = completed(one)
    assert [len(load(own, split)["annotations"]) for split in ("train", "val")] == [1, 1]
    assert "1 of the 2 images" in notes[1]


def test_what_coco_files_lack_is_put_right(tmp_path):
    """Defect N14: iscrowd, area, sizes, the order of categories, and classes without objects."""
    draw(tmp_path / "images/a.jpg", tmp_path / "images/b.jpg")
    train = coco(["a.jpg"], ["fig", "date"])
    del train["annotations"][0]["iscrowd"], train["annotations"][0]["area"]
    del train["images"][0]["width"]
    val = coco(["b.jpg"], ["nut", "fig"])
    write(tmp_path / "train.json", train)
    path = write(tmp_path / "val.json", val)
    before = path.read_bytes()
    own, notes = completed(tmp_path)
    mended = load(own, "train")
    assert mended["annotations"][0]["area"] == 360
    assert mended["annotations"][0]["iscrowd"] == 0
    assert (mended["images"][0]["width"], mended["images"][0]["height"]) == SIZE
    assert [c["name"] for c in load(own, "val")["categories"]] == ["fig", "date", "nut"]
    assert [c["id"] for c in load(own, "val")["categories"]] == [2, 3, 1]
    assert path.read_bytes() == before
    said = "\n".join(notes)
    for part in (
        "1 images have no size",
        "1 annotations have no iscrowd",
        "1 annotations have no area",
    ):
        assert f"train.json: {part}" in said
    assert "val.json: it has no categories date: they are added" in said
    assert "val.json: objects of nut are left out" in said
    assert own["val"]["ann_file"] in said


@pytest.mark.parametrize("name", ["data.yaml", "train/labels"])
def test_files_of_other_formats_as_ann_file(name, tmp_path):
    """Defect N13."""
    part = {"ann_file": name, "img_dir": "train/images"}
    with pytest.raises(UserError, match=r"belongs to a YOLO data set.*leave train and val out"):
        completed(yolo(tmp_path), train=part, val=part)


def test_folders_that_are_not_recognised(tmp_path):
    draw(tmp_path / "pictures/a.jpg")
    with pytest.raises(UserError, match="no data set that is recognised: it has 1 images and pict"):
        completed(tmp_path)
