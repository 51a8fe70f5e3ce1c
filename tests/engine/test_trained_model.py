"""``swin_dense.load``: a trained model in Python."""

import json
import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from PIL import Image
from pycocotools import mask as coco_mask

import swin_dense
from swin_dense.datasets.shapes import ShapesSpec, write_shapes
from swin_dense.errors import UserError

TOOLS = Path(__file__).resolve().parents[1] / "tools"
CLASSES = {
    "detector": ("circle", "square", "triangle", "star"),
    "segmentor": ("background", "circle", "square", "triangle", "star"),
}


@pytest.fixture(scope="module", params=["detector", "segmentor"])
def untrained(request, tmp_path_factory) -> SimpleNamespace:
    """A tiny model with random weights, and images."""
    torch.manual_seed(3)
    root = tmp_path_factory.mktemp(request.param)
    write_shapes(root / "data", ShapesSpec(train=1, val=3, size=64))
    config = TOOLS / f"tiny_{request.param}.py"
    cfg = Config.fromfile(config)
    cfg.model.backbone.init_cfg = None
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    checkpoint = root / "model.pth"
    meta = {"dataset_meta": {"classes": CLASSES[request.param]}}
    torch.save({"state_dict": model.state_dict(), "meta": meta}, checkpoint)
    images = sorted((root / "data" / "val2017").glob("*.jpg"))
    return SimpleNamespace(
        kind=request.param,
        config=config,
        checkpoint=checkpoint,
        root=root,
        data=root / "data",
        images=images,
        model=swin_dense.load(config, checkpoint, device="cpu"),
    )


def same(one, other) -> bool:
    names = ("image", "boxes", "labels", "scores", "masks", "label_map")
    return one.classes == other.classes and all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in names
    )


def test_a_file_an_array_and_an_image_give_the_same(untrained, tmp_path):
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), cv2.imread(str(untrained.images[0])))
    array = np.asarray(Image.open(path))
    given = [path, str(path), array, Image.open(path)]
    found = untrained.model.predict(given, score_thr=0.0)
    assert all(same(found[0], one) for one in found)
    assert same(found[0], untrained.model.predict(array, score_thr=0.0))
    assert (found[0].image == array).all()
    assert untrained.model.predict([]) == []


def test_contents(untrained):
    model, path = untrained.model, untrained.images[0]
    found = model.predict(path, score_thr=0.0)
    assert found.classes == model.classes == CLASSES[untrained.kind]
    assert str(model.device) == "cpu"
    if untrained.kind == "segmentor":
        assert len(found) == 0
        assert found.boxes.shape == (0, 4)
        assert found.masks is None
        assert (found.label_map.shape, found.label_map.dtype) == ((64, 64), np.uint8)
        assert found.names == [CLASSES["segmentor"][i] for i in np.unique(found.label_map)]
    else:
        number = len(found)
        assert 0 < number <= 10
        assert found.label_map is None
        assert found.boxes.shape == (number, 4)
        assert found.masks.shape == (number, 64, 64)
        assert found.masks.dtype == bool
        assert (np.diff(found.scores) <= 0).all()
        assert found.names == [CLASSES["detector"][i] for i in found.labels]
        middle = float(np.median(found.scores))
        fewer = model.predict(path, score_thr=middle)
        assert len(fewer) == (found.scores >= middle).sum()
    assert "64 x 64 pixels: " in repr(found)
    assert found.names[0] in repr(found)
    assert same(found, pickle.loads(pickle.dumps(found)))


def test_pictures(untrained, tmp_path):
    found = untrained.model.predict(untrained.images[0], score_thr=0.0)
    picture = found.draw(tmp_path / "drawn.png")
    assert picture.size == (384, 384)  # enlarged for readability
    assert (np.asarray(Image.open(tmp_path / "drawn.png")) == np.asarray(picture)).all()
    plain = cv2.resize(found.image, (384, 384), interpolation=cv2.INTER_CUBIC)
    assert (np.asarray(picture) != plain).any()
    if untrained.kind == "detector":
        assert (np.asarray(found.draw(score_thr=1.1)) == plain).all()
    with pytest.raises(UserError, match=r"drawn\.xyz names no kind of picture"):
        found.draw(tmp_path / "drawn.xyz")


def test_features_are_those_of_a_prediction(untrained):
    seen = []
    backbone = untrained.model.model.backbone
    handle = backbone.register_forward_hook(lambda *call: seen.append(call[-1]))
    untrained.model.predict(untrained.images[0])
    handle.remove()
    maps = untrained.model.features(untrained.images[0])
    assert [tuple(one.shape) for one in maps] == [
        (1, 8 * 2**i, 16 // 2**i, 16 // 2**i) for i in range(4)
    ]
    assert all(torch.equal(*pair) for pair in zip(maps, seen[0], strict=True))


@pytest.mark.parametrize(
    ("image", "complaint"),
    [
        ("nothing.jpg", "nothing.jpg cannot be read: No such file"),
        (np.zeros((4, 5), np.uint8), r"shape \(4, 5\) and type uint8"),
        (np.zeros((4, 5, 3), np.float32), "float32 was given: it has to be"),
        (np.zeros((2, 4, 5, 3), np.uint8), "several images as a list"),
        (np.zeros((1, 3000, 3), np.uint8), "an image: cannot be resized from 3000 x 1"),
    ],
)
def test_what_is_no_image(untrained, image, complaint):
    for given in (image, [untrained.images[0], image]):
        with pytest.raises(UserError, match=complaint):
            untrained.model.predict(given)


def test_turned_images(untrained, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown rotated by 90 degrees
    Image.new("RGB", (20, 10)).save(tmp_path / "turned.jpg", exif=exif)
    path = tmp_path / "turned.jpg"
    assert untrained.model.predict(path).image.shape == (20, 10, 3)
    assert untrained.model.predict(Image.open(path)).image.shape == (20, 10, 3)


def test_equal_to_the_tools(untrained, tool, tmp_path):
    """The same boxes, scores and masks, or label maps, as tools/test.py and tools/predict.py."""
    files = (untrained.config, untrained.checkpoint)
    tested, predicted = tmp_path / "tested", tmp_path / "predicted"
    out = tested / "found.pkl" if untrained.kind == "detector" else tested
    data = ["--data-root", untrained.data, "--work-dir", tmp_path / "w"]
    one_by_one = ["--cfg-options", "test_dataloader.batch_size=1"]
    assert tool("test", *files, *data, "--out", out, *one_by_one) == 0
    folder = untrained.data / "val2017"
    assert tool("predict", *files, folder, "--out", predicted, "--score-thr", 0) == 0
    document = json.loads((predicted / "predictions.json").read_text())
    if untrained.kind == "detector":
        content = pickle.loads(out.read_bytes())
        stored = {os.path.basename(one["img_path"]): one["pred_instances"] for one in content}
    for path, entry in zip(untrained.images, document["images"], strict=True):
        found = untrained.model.predict(path, score_thr=0.0)
        assert entry["file"] == path.name
        if untrained.kind == "segmentor":
            for written in (tested / f"{path.stem}.png", predicted / entry["label_map"]):
                assert (cv2.imread(str(written), cv2.IMREAD_UNCHANGED) == found.label_map).all()
            continue
        one = stored[path.name]
        assert (one["bboxes"].numpy() == found.boxes).all()
        assert (one["scores"].numpy() == found.scores).all()
        assert (one["labels"].numpy() == found.labels).all()
        assert (coco_mask.decode(one["masks"]).transpose(2, 0, 1) == found.masks).all()
        instances = entry["instances"]
        assert [i["class"] for i in instances] == found.names
        assert [i["score"] for i in instances] == pytest.approx(found.scores, abs=6e-5)
        np.testing.assert_allclose([i["bbox"] for i in instances], found.boxes, atol=6e-3)
        assert all(
            (coco_mask.decode(i["mask"]) == mask).all()
            for i, mask in zip(instances, found.masks, strict=True)
        )


# Heads of 80 and 150 classes; own_data has 4 and 5.
OWN_DATA = {
    "detector": """
_base_ = {base!r}
model = dict(roi_head=dict(bbox_head=dict(num_classes=80), mask_head=dict(num_classes=80)))
own_data = dict(
    root={root!r},
    train=dict(ann_file='annotations/instances_train2017.json', img_dir='train2017'),
    val=dict(ann_file='annotations/instances_val2017.json', img_dir='val2017'))
""",
    "segmentor": """
_base_ = {base!r}
model = dict(decode_head=dict(num_classes=150), auxiliary_head=dict(num_classes=150))
own_data = dict(
    root={root!r}, classes=('background', 'circle', 'square', 'triangle', 'star'),
    train=dict(img_dir='train2017', seg_dir='annotations/training'),
    val=dict(img_dir='val2017', seg_dir='annotations/validation'))
""",
}


@pytest.mark.parametrize("with_classes", [True, False])
def test_own_data_sets_the_heads(untrained, tmp_path, with_classes):
    """Classes come from the checkpoint, even if the data are not there, or from the data."""
    root = "nowhere" if with_classes else str(untrained.data)
    config = tmp_path / "mine.py"
    config.write_text(OWN_DATA[untrained.kind].format(base=str(untrained.config), root=root))
    checkpoint = torch.load(untrained.checkpoint, weights_only=True)
    if not with_classes:
        del checkpoint["meta"]
    torch.save(checkpoint, tmp_path / "model.pth")
    model = swin_dense.load(config, tmp_path / "model.pth", device="cpu")
    assert model.classes == CLASSES[untrained.kind]
    expected = untrained.model.predict(untrained.images[0], score_thr=0.0)
    assert same(expected, model.predict(untrained.images[0], score_thr=0.0))


@pytest.mark.parametrize("masks", [True, False])
def test_own_data_need_not_be_there(untrained, tmp_path, masks, capfd):
    """Whether objects have masks is in the weights: README's own config predicts anywhere."""
    if untrained.kind == "segmentor":
        pytest.skip("label maps are no masks of objects")
    config = tmp_path / "mine.py"
    config.write_text(f"_base_ = {str(untrained.config)!r}\nown_data = dict(root='nowhere')\n")
    checkpoint = torch.load(untrained.checkpoint, weights_only=True)
    state = checkpoint["state_dict"]
    for name in [name for name in state if "mask_head" in name and not masks]:
        del state[name]
    torch.save(checkpoint, tmp_path / "model.pth")
    capfd.readouterr()
    model = swin_dense.load(config, tmp_path / "model.pth", device="cpu")
    assert model.model.with_mask == masks
    assert capfd.readouterr().out.count("\n") == 1  # the report on the weights


def test_models_of_both_kinds_side_by_side(untrained, capfd):
    """mmengine has one default scope; what is there is left, and nothing is said of it."""
    other = "mmseg" if untrained.kind == "detector" else "mmdet"
    init_default_scope(other)
    capfd.readouterr()
    swin_dense.load(untrained.config, untrained.checkpoint).predict(untrained.images[0])
    found = capfd.readouterr()
    assert found.err == ""
    assert found.out.count("\n") == 1  # the report on the weights
    assert (
        DefaultScope.get_current_instance().scope_name
        != untrained.model._predictor.cfg["default_scope"]
    )


def test_user_errors(untrained, tmp_path):
    with pytest.raises(UserError, match="no such checkpoint"):
        swin_dense.load(untrained.config, tmp_path / "none.pth")
    with pytest.raises(UserError, match="no such config"):
        swin_dense.load(tmp_path / "none.py", untrained.checkpoint)
    with pytest.raises(UserError, match="unknown device 'tpu'"):
        swin_dense.load(untrained.config, untrained.checkpoint, device="tpu")
