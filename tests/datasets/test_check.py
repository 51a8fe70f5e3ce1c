"""Errors in a data set are found before training, and messages name the fix."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine import Config
from PIL import Image

from swin_dense.datasets.check import check_data
from swin_dense.errors import UserError

SQUARE = [[4.0, 4.0, 24.0, 4.0, 24.0, 24.0, 4.0, 24.0]]


def coco_content() -> dict:
    """Two images of 48 x 40 pixels with a box and a mask each, two classes."""
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 48, "height": 40} for i in range(2)],
        "annotations": [
            {
                "id": i,
                "image_id": i,
                "category_id": 5 + i,
                "bbox": [4, 4, 20, 20],
                "area": 400,
                "iscrowd": 0,
                "segmentation": SQUARE,
            }
            for i in range(2)
        ],
        "categories": [{"id": 5, "name": "fig"}, {"id": 6, "name": "date"}],
    }


def write_coco(root: Path, content: dict) -> None:
    root.mkdir(exist_ok=True)
    (root / "images").mkdir(exist_ok=True)
    for i in range(2):
        cv2.imwrite(str(root / "images" / f"{i}.png"), np.zeros((40, 48, 3), np.uint8))
    (root / "all.json").write_text(json.dumps(content))


def detector(root: Path, wrap: Callable[[dict], dict] = lambda dataset: dataset) -> Config:
    """A config that trains and evaluates boxes and masks of two classes on ``root``."""
    dataset = {
        "type": "CocoDataset",
        "data_root": str(root),
        "ann_file": "all.json",
        "data_prefix": {"img": "images/"},
        "metainfo": {"classes": ("fig", "date")},
        "filter_cfg": {"filter_empty_gt": True, "min_size": 32},
        "pipeline": [{"type": "LoadAnnotations", "with_bbox": True, "with_mask": True}],
    }
    evaluator = {
        "type": "swin_dense.CocoMetric",
        "ann_file": str(root / "all.json"),
        "metric": ["bbox", "segm"],
    }
    return Config(
        {
            "default_scope": "mmdet",
            "model": {
                "rpn_head": {"num_classes": 1},
                "roi_head": {
                    "bbox_head": [{"num_classes": 2}, {"num_classes": 2}],
                    "mask_head": {"num_classes": 2},
                },
            },
            "train_dataloader": {"dataset": wrap(dataset)},
            "val_dataloader": {"dataset": copy.deepcopy(dataset)},
            "val_evaluator": evaluator,
        }
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_coco(tmp_path / "data", coco_content())
    return tmp_path / "data"


def test_valid_data_set_passes_without_warnings(root):
    assert check_data(detector(root)) == []


def change(key: str, **values) -> Callable[[dict], None]:
    """Return an edit that sets, or with None removes, values of all entries under ``key``."""

    def edit(content: dict) -> None:
        for entry in content[key]:
            entry.update(values)
            for name, value in values.items():
                if value is None:
                    del entry[name]

    return edit


def duplicate(key: str) -> Callable[[dict], None]:
    return lambda content: content[key].append(dict(content[key][0]))


def reverse_categories(content: dict) -> None:
    content["categories"].reverse()


BROKEN = {
    "no images key": (lambda c: c.pop("images"), "images is missing .*export it again"),
    "annotations no list": (lambda c: c.update(annotations={}), "annotations is not a list"),
    "no file_name": (change("images", file_name=None), r"file_name of images\[0\] is missing"),
    "image without size": (change("images", width=0), "image 0.png has the size 0 x 40 pixels"),
    "duplicate image id": (duplicate("images"), "two images have id 0"),
    "no bbox": (change("annotations", bbox=None), r"bbox of annotations\[0\] is missing"),
    "bbox too short": (change("annotations", bbox=[1, 2, 3]), "bbox of annotation 0 is .*four"),
    "bbox of text": (change("annotations", bbox=["1", 2, 3, 4]), "bbox of annotation 0 is"),
    "bbox not finite": (change("annotations", bbox=[1, 2, 3, float("nan")]), "annotation 0 is"),
    "no area": (change("annotations", area=None), r"area of annotations\[0\] is missing"),
    "no iscrowd": (change("annotations", iscrowd=None), '2 annotations lack iscrowd.*"iscrowd": 0'),
    "duplicate annotation id": (duplicate("annotations"), "two annotations have id 0"),
    "duplicate category id": (duplicate("categories"), "category 5 'fig' is duplicated"),
    "duplicate class name": (change("categories", name="nut"), "category 6 'nut' is duplicated"),
    "missing class": (lambda c: c["categories"].pop(), "lacks 1 .* classes: date; it has fig"),
    "other order": (reverse_categories, "another order .*starts with date, fig, not fig, date"),
    "no masks": (change("annotations", segmentation=None), "2 annotations have a box but no seg"),
    "empty masks": (change("annotations", segmentation=[]), "masks=False in own_data"),
    "crowds only": (change("annotations", iscrowd=1), "no annotations to train on"),
    "no annotations": (lambda c: c.update(annotations=[]), "no annotations to train on"),
    "boxes outside": (change("annotations", bbox=[100, 4, 9, 9]), "no annotations to train on"),
    "image ids of text": (change("annotations", image_id="0"), "no annotations to train on"),
    "small images": (change("images", width=31), "smaller than filter_cfg.min_size"),
    "missing image": (change("images", file_name="x/9.png"), "2 of 2 images .*first is x/9.png"),
    "no image listed": (lambda c: c.update(images=[], annotations=[]), "lists no images"),
    "box far outside": (
        change("annotations", bbox=[0, 0, 1e6, 9]),
        "bbox of annotation 0 is .*48 x 40",
    ),
    "area not finite": (
        change("annotations", area=float("inf")),
        r"area of annotations\[0\] is inf",
    ),
    "id of 300 digits": (change("images", id=10**300), r"id of images\[0\] is 1000"),
    "crowd in words": (change("annotations", iscrowd="no"), "iscrowd of annotation 0 is 'no'"),
    "half a character": (change("images", file_name="\ud800.png"), r"file_name of images\[0\] is"),
    "zero in a name": (change("images", file_name="\0.png"), r"file_name of images\[0\] is"),
    "no image file": (change("images", file_name="/etc/passwd"), "2 of 2 .*passwd: not an image"),
    "other size": (change("images", width=400, height=400), "0.png: 48 x 40 pixels, not 400 x 400"),
    "other side": (change("images", width=40, height=48), "perhaps turned by its EXIF tag, not 40"),
}


@pytest.mark.parametrize(("edit", "message"), BROKEN.values(), ids=BROKEN)
def test_invalid_annotations_raise_with_their_file(edit, message, root):
    content = coco_content()
    edit(content)
    write_coco(root, content)
    with pytest.raises(UserError, match=message) as caught:
        check_data(detector(root))
    assert str(root / "all.json") in str(caught.value)
    assert "\n" not in str(caught.value)


HUGE, NAN = 1e9, float("nan")
UNUSABLE = {  # segmentations: some crash pycocotools, mmdet trains on others as if they were crowds
    "huge": ([[0, 0, HUGE, 0, HUGE, HUGE]], "a polygon far outside the image"),
    "beyond float": ([[0, 0, 10**400, 0, 9, 9.5]], "not finite numbers"),
    "number": (7, "neither a list of polygons nor"),
    "text": ("4 4 24 4 24 24", "neither a list of polygons nor"),
    "flat": (SQUARE[0], "neither a list of polygons nor"),
    "points": ([[[4, 4], [24, 4], [24, 24], [4, 24], [4, 8], [4, 6]]], "not finite numbers"),
    "empty polygon": ([[]], "no polygon of three points"),
    "two points": ([[4, 4, 24, 4]], "no polygon of three points"),
    "odd count": ([SQUARE[0][:7]], "no polygon of three points"),
    "nan": ([[NAN, *SQUARE[0][1:]]], "not finite numbers"),
    "infinity": ([[float("inf"), *SQUARE[0][1:]]], "not finite numbers"),
    "null": ([[None, *SQUARE[0][1:]]], "not finite numbers"),
    "text coordinates": ([[str(v) for v in SQUARE[0]]], "not finite numbers"),
    "rle of another size": ({"size": [48, 40], "counts": [48 * 40]}, "another size"),
    "rle too long": ({"size": [40, 48], "counts": [48 * 41]}, "broken run-length encoding"),
    "rle too short": ({"size": [40, 48], "counts": [48 * 39]}, "broken run-length encoding"),
    "rle below zero": ({"size": [40, 48], "counts": [48 * 40 + 1, -1]}, "broken run-length"),
    "rle garbage": ({"size": [40, 48], "counts": "~~~\u20ac"}, "broken run-length encoding"),
    "rle without size": ({"counts": [48 * 40]}, "broken run-length encoding"),
    "rle oversized": ({"size": [10**9, 10**9], "counts": "0"}, "broken run-length encoding"),
}


@pytest.mark.parametrize(("segmentation", "reason"), UNUSABLE.values(), ids=UNUSABLE)
def test_masks_that_cannot_be_drawn_are_counted_and_named(segmentation, reason, root):
    content = coco_content()
    content["annotations"][1]["segmentation"] = segmentation
    write_coco(root, content)
    for splits in (["train"], ["val"]):
        with pytest.raises(UserError, match=rf"1 annotations have .*{reason}.* \(ids 1\), and the"):
            check_data(detector(root), splits)
    cfg = detector(root)  # boxes can be trained
    cfg.train_dataloader.dataset.pipeline[0].with_mask = False
    cfg.val_evaluator.metric = "bbox"
    assert check_data(cfg) == []


def test_polygons_that_mmdet_leaves_out_are_named(root):
    content = coco_content()
    content["annotations"][0]["segmentation"] = [*SQUARE, [1, 2, 3, 4]]
    write_coco(root, content)
    (warning,) = check_data(detector(root))
    assert "1 annotations have polygons of less than three points" in warning
    assert "(ids 0)" in warning


@pytest.mark.parametrize("mirror", [False, True])
def test_image_that_its_exif_tag_turns(mirror, root):
    content = coco_content()
    for i, image in enumerate(content["images"]):
        exif = Image.Exif()
        exif[0x0112] = 5 if mirror else 6
        Image.new("RGB", (48, 40)).save(root / "images" / f"{i}.jpg", exif=exif)
        image["file_name"] = f"{i}.jpg"
    (root / "all.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"0.jpg: 40 x 48 pixels, perhaps turned by its EXIF tag"):
        check_data(detector(root))
    cfg = detector(root)
    loading = {"type": "LoadImageFromFile", "color_type": "color_ignore_orientation"}
    for split in ("train", "val"):
        cfg[f"{split}_dataloader"].dataset.pipeline.insert(0, loading)
    assert check_data(cfg) == []


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.write_bytes(path.read_bytes()[:20]), "damaged|not an image"),
        (lambda path: Image.new("F", (48, 40)).save(path, "tiff"), "floating-point numbers"),
        (lambda path: Image.new("1", (20000, 20000)).save(path), "more than 178956970 pixels"),
    ],
    ids=["empty", "cut off", "floats", "bomb"],
)
def test_images_that_cannot_be_read(damage, reason, root):
    damage(root / "images" / "1.png")
    with pytest.raises(UserError, match=rf"1 of 2 images .* first is .*1.png: .*({reason})"):
        check_data(detector(root))
    cfg = detector(root)
    cfg.skip_bad_images = True
    (warning,) = check_data(cfg, splits=["train"])
    assert "1.png" in warning
    assert "skips them" in warning
    with pytest.raises(UserError):  # an evaluation needs every image
        check_data(cfg, splits=["val"])


def test_annotations_that_will_be_skipped_are_counted(root):
    content = coco_content()
    bad = content["annotations"][0]
    for i, changes in enumerate(
        [{"bbox": [1, 1, 0, 9]}, {"bbox": [90, 1, 9, 9]}, {"image_id": 77}, {"category_id": 77}]
    ):
        content["annotations"].append({**bad, "id": 10 + i, **changes})
    write_coco(root, content)
    warnings = check_data(detector(root))
    assert len(warnings) == 4  # one file, read by several data sets and evaluators
    for warning, (reason, key) in zip(
        warnings,
        [
            ("less than one pixel", 10),
            ("outside the image", 11),
            ("image_id", 12),
            ("category_id", 13),
        ],
        strict=True,
    ):
        assert "1 of 6 annotations will be skipped" in warning
        assert reason in warning
        assert f"ids {key}" in warning


def test_truncated_file(root):
    path = root / "all.json"
    path.write_text(path.read_text()[:-40])
    with pytest.raises(UserError, match=r"all.json is truncated or not JSON \(line 1, column"):
        check_data(detector(root))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"images": ' + "9" * 5000 + "}", "all.json cannot be read .*4300"),
    ],
    ids=["nested", "digits"],
)
def test_files_that_break_the_parser(text, message, root):
    (root / "all.json").write_text(text)
    with pytest.raises(UserError, match=message):
        check_data(detector(root))


def test_annotation_id_zero_needs_our_evaluation(root):
    cfg = detector(root)
    assert check_data(cfg) == []
    cfg.val_evaluator.type = "CocoMetric"
    with pytest.raises(UserError, match=r"id 0, .*type='swin_dense.CocoMetric'"):
        check_data(cfg)


def test_missing_files_and_folders(root):
    for gone, message in (
        ("all.json", "no annotation file .*all.json"),
        ("images", "no image folder .*images"),
        (".", "no data root .*data .*--data-root"),
    ):
        moved = root.with_name("moved")
        (root / gone).resolve().rename(moved)
        with pytest.raises(UserError, match=message):
            check_data(detector(root))
        moved.rename((root / gone).resolve())


@pytest.mark.parametrize("place", ["roi_head.bbox_head.1", "roi_head.mask_head"])
def test_head_with_another_number_of_classes(place, root):
    cfg = detector(root)
    cfg.merge_from_dict({f"model.{place}.num_classes": 80})
    name = place.replace(".1", r"\[1\]")
    with pytest.raises(UserError, match=rf"model.{name}.num_classes is 80, .* 2 classes.*set it"):
        check_data(cfg)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda inner: {"type": "RepeatDataset", "times": 2, "dataset": inner},
        lambda inner: {"type": "ConcatDataset", "datasets": [copy.deepcopy(inner), inner]},
        lambda inner: {
            "type": "MultiImageMixDataset",
            "pipeline": [],
            "dataset": {"type": "ClassBalancedDataset", "oversample_thr": 0.1, "dataset": inner},
        },
    ],
    ids=["repeat", "concat", "mix of class-balanced"],
)
def test_data_sets_inside_wrappers_are_checked(wrap, root):
    cfg = detector(root, wrap)
    assert check_data(cfg) == []
    broken = cfg.train_dataloader.dataset
    while "type" in broken and broken.type != "CocoDataset":
        broken = broken.datasets[-1] if "datasets" in broken else broken.dataset
    broken.ann_file = "gone.json"
    with pytest.raises(UserError, match=r"no annotation file .*gone.json"):
        check_data(cfg)


def test_evaluator_and_data_set_of_different_images(root):
    content = coco_content()
    content["images"].pop()
    (root / "half.json").write_text(json.dumps(content))
    cfg = detector(root)
    cfg.val_evaluator.ann_file = str(root / "half.json")
    with pytest.raises(UserError, match=r"val_evaluator reads .*half.json with 1 images"):
        check_data(cfg)
    assert check_data(cfg, splits=["train"]) == []


def test_box_detector_does_not_need_masks(root):
    content = coco_content()
    change("annotations", segmentation=None)(content)
    write_coco(root, content)
    cfg = detector(root)
    cfg.train_dataloader.dataset.pipeline[0].with_mask = False
    cfg.val_evaluator.metric = "bbox"
    assert check_data(cfg) == []


def test_images_for_a_test_server_need_no_annotations(root):
    content = coco_content()
    del content["annotations"]
    (root / "test.json").write_text(json.dumps(content))
    cfg = detector(root)
    cfg.val_dataloader.dataset.ann_file = "test.json"
    cfg.val_evaluator.update(format_only=True)
    assert check_data(cfg, splits=["val"]) == []


def test_images_without_labels_need_no_annotations(root):
    content = coco_content()
    del content["annotations"]
    (root / "all.json").write_text(json.dumps(content))
    cfg = detector(root)
    with pytest.raises(UserError, match="annotations is missing"):
        check_data(cfg, splits=["train"])
    cfg.train_dataloader.dataset.pipeline = [
        {"type": "LoadImageFromFile"},
        {"type": "LoadEmptyAnnotations"},
        {"type": "MultiBranch", "branch_field": ["a"], "a": [{"type": "PackDetInputs"}]},
    ]
    assert check_data(cfg, splits=["train"]) == []
    (root / "images" / "0.png").unlink()
    with pytest.raises(UserError, match=r"1 of \d+ images of .*all.json are not in"):
        check_data(cfg, splits=["train"])


def segmentor(root: Path, **dataset_options) -> Config:
    dataset = {
        "type": "BaseSegDataset",
        "data_root": str(root),
        "data_prefix": {"img_path": "img", "seg_map_path": "seg"},
        "metainfo": {"classes": ("road", "car", "sky")},
        **dataset_options,
    }
    heads = {"decode_head": {"num_classes": 3}, "auxiliary_head": [{"num_classes": 3}]}
    return Config(
        {"default_scope": "mmseg", "model": heads, "train_dataloader": {"dataset": dataset}}
    )


@pytest.fixture
def roads(tmp_path: Path) -> Path:
    """Three images with label maps of three classes and some ignored pixels."""
    root = tmp_path / "roads"
    (root / "img").mkdir(parents=True)
    (root / "seg" / "inner").mkdir(parents=True)
    labels = np.arange(20 * 30, dtype=np.uint8).reshape(20, 30) % 3
    labels[0] = 255
    for i in range(3):
        cv2.imwrite(str(root / "img" / f"{i}.jpg"), np.zeros((20, 30, 3), np.uint8))
        cv2.imwrite(str(root / "seg" / f"{i}.png"), labels)
    return root


def test_valid_label_maps_pass(roads):
    assert check_data(segmentor(roads)) == []


def draw(value: int, shape: tuple[int, ...] = (20, 30)) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        cv2.imwrite(str(path), np.full(shape, value, np.uint8))

    return write


BROKEN_MAPS = {
    "missing label map": (Path.unlink, "1 of 3 images .* no label map .*the first is 1.png"),
    "value too high": (draw(3), "1.png contains the value 3, but 3 classes are numbered 0 to 2"),
    "other size": (draw(1, (10, 30)), "1.png is 30 x 10 pixels, but .*1.jpg is 30 x 20"),
    "colours": (draw(1, (20, 30, 3)), "1.png is an image of mode RGB, not a label map"),
    "no image": (lambda path: path.write_text("?"), "1.png is truncated or not an image"),
    "16 bits": (
        lambda path: cv2.imwrite(str(path), np.full((20, 30), 300, np.uint16)),
        "1.png contains the value 300, but label maps are read with 8 bits",
    ),
}


@pytest.mark.parametrize(("damage", "message"), BROKEN_MAPS.values(), ids=BROKEN_MAPS)
def test_invalid_label_maps_raise(damage, message, roads):
    damage(roads / "seg" / "1.png")
    with pytest.raises(UserError, match=message):
        check_data(segmentor(roads))


def test_reduce_zero_label(roads):
    draw(3)(roads / "seg" / "0.png")
    assert check_data(segmentor(roads, reduce_zero_label=True)) == []
    draw(4)(roads / "seg" / "2.png")
    with pytest.raises(UserError, match="3 classes are numbered 1 to 3"):
        check_data(segmentor(roads, reduce_zero_label=True))


def test_label_maps_without_a_label_are_reported(roads):
    for i in range(3):
        draw(255)(roads / "seg" / f"{i}.png")
    assert "no pixel is labelled" in check_data(segmentor(roads))[0]


def test_255_instead_of_1(roads):
    for i in range(3):
        path = roads / "seg" / f"{i}.png"
        cv2.imwrite(str(path), 255 * (cv2.imread(str(path), cv2.IMREAD_UNCHANGED) == 1))
    with pytest.raises(
        UserError, match=r"values 0 and 255 alone, .*no pixel is car: save .* 0 to 2"
    ):
        check_data(segmentor(roads))


def test_classes_that_no_label_map_has_are_named(roads):
    for i in range(3):
        draw(i // 2)(roads / "seg" / f"{i}.png")
    (warning,) = check_data(segmentor(roads))
    assert warning.endswith("1 of 3 classes are in none of the 3 label maps that were read: sky")


def test_more_classes_than_label_maps_can_tell(roads):
    cfg = segmentor(roads, metainfo={"classes": [f"c{i}" for i in range(256)]})
    with pytest.raises(UserError, match="256 classes, but label maps are read with 8 bits"):
        check_data(cfg)


def test_bad_pairs_are_a_warning_if_training_skips_them(roads):
    draw(1, (10, 30))(roads / "seg" / "1.png")
    (roads / "img" / "2.jpg").write_bytes(b"")
    cfg = segmentor(roads)
    cfg.skip_bad_images = True
    (warning,) = check_data(cfg)
    assert "2 of 3 images cannot be used" in warning
    assert "training skips them" in warning


def test_suffixes_and_split_files_of_the_data_set_are_used(roads):
    with pytest.raises(UserError, match=r"no images \*\.jpeg"):
        check_data(segmentor(roads, img_suffix=".jpeg"))
    (roads / "seg" / "2.png").unlink()
    (roads / "some.txt").write_text("0\n1\n")
    assert check_data(segmentor(roads, ann_file="some.txt")) == []


def test_real_coco_passes(shared, repo):
    cfg = Config.fromfile(repo / "configs" / "cascade_swin_t_coco.py")
    root = shared / "data" / "coco_mini"
    for split in ("train", "val"):
        cfg[f"{split}_dataloader"].dataset.data_root = str(root)
    cfg.val_evaluator.ann_file = str(root / "annotations" / "instances_val2017.json")
    assert check_data(cfg) == []


def test_real_ade20k_passes_and_full_ade20k_raises(shared, repo, tmp_path):
    cfg = Config.fromfile(repo / "configs" / "upernet_swin_t_ade20k.py")
    source = shared / "data" / "ade_mini"
    for split in ("train", "val"):
        cfg[f"{split}_dataloader"].dataset.data_root = str(source)
    for warning in check_data(cfg):
        assert "of 150 classes are in none of the" in warning
    for kind in ("images", "annotations"):
        (tmp_path / kind / "training").mkdir(parents=True)
    name = "ADE_train_00000001"
    shutil.copy(source / "images" / "training" / f"{name}.jpg", tmp_path / "images" / "training")
    shutil.copy(
        shared / "data" / "malformed" / "ade_full_rgb_masks" / f"{name}_seg.png",
        tmp_path / "annotations" / "training" / f"{name}.png",
    )
    cfg.train_dataloader.dataset.data_root = str(tmp_path)
    with pytest.raises(UserError, match=r"mode RGB, not a label map.*use ADEChallengeData2016"):
        check_data(cfg)


MALFORMED = {
    "coco_json/dt_ignore_test.json": "contains a list, .*results are a list",
    "coco_json/gt_ignore_test.json": "lacks 2 of .* classes: fig, date; it has person",
    "coco_json/mmdet2_coco_sample_no_iscrowd.json": "lacks .* classes",
    "coco_json/datumaro_coco_instances/annotations/instances_train.json": "lacks .* classes",
    "transcribed/mmdet_coco_wrong_format_sample.json": "two annotations have id 1",
    "mmengine/annotation_wrong_format.json": "contains a list",
    "mmengine/dummy_annotation.json": "images is missing .*metainfo, data_list",
    "pillow/hopper.jpg": "not UTF-8 text",
}


@pytest.mark.parametrize(("name", "message"), MALFORMED.items(), ids=MALFORMED)
def test_malformed_files_raise(name, message, shared, root):
    shutil.copy(shared / "data" / "malformed" / name, root / "all.json")
    with pytest.raises(UserError, match=message):
        check_data(detector(root))


def test_label_maps_of_a_semantic_branch(root):
    cfg = detector(root)
    cfg.train_dataloader.dataset.pipeline[0].with_seg = True
    with pytest.raises(UserError, match=r"data_prefix.seg, .* config htc_pp_without_semantic_\*"):
        check_data(cfg)
    cfg.train_dataloader.dataset.data_prefix.seg = "maps/stuff/"
    fix = rf"unpack http://\S+/stuffthingmaps_trainval2017.zip into {root}/maps, or use a config"
    with pytest.raises(UserError, match=rf"stuff lacks 2 of 2 .*first is 0.png: {fix}"):
        check_data(cfg)
    (root / "maps" / "stuff").mkdir(parents=True)
    (root / "maps" / "stuff" / "0.png").touch()
    with pytest.raises(UserError, match=r"stuff lacks 1 of 2 .*first is 1.png"):
        check_data(cfg)
    (root / "maps" / "stuff" / "1.png").touch()
    assert check_data(cfg) == []
