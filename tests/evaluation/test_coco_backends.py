"""faster-coco-eval and pycocotools give the same metrics."""

import importlib.util
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation import CocoMetric as StockMetric
from mmengine.structures import InstanceData
from pycocotools import mask as rle

from swin_dense.errors import UserError
from swin_dense.evaluation import CocoMetric, coco_metric

CLASSES = ("cup", "dog", "hat")
SIZE = 160

pytestmark = pytest.mark.skipif(
    not importlib.util.find_spec("faster_coco_eval"), reason="faster-coco-eval is not installed"
)


def random_boxes(draw: np.random.Generator, count: int) -> np.ndarray:
    """(count, 4) as x, y, width, height; objects of every area range."""
    sides = draw.uniform(2, 130, (count, 2))
    return np.hstack([draw.uniform(0, 1, (count, 2)) * (SIZE - sides), sides]).round(2)


def box_mask(box) -> dict:
    x, y, w, h = np.asarray(box).astype(int)
    mask = np.zeros((SIZE, SIZE), dtype=np.uint8)
    mask[y : y + h + 1, x : x + w + 1] = 1
    return rle.encode(np.asfortranarray(mask))


def polygon(box) -> list:
    x, y, w, h = box
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def scene(
    seed: int = 0, images: int = 24, first_id: int = 1, crowd: float = 0.2
) -> SimpleNamespace:
    """Ground truth in COCO format, and detections, some of them near the ground truth."""
    draw = np.random.default_rng(seed)
    truth, samples = [], []
    for image in range(images):
        boxes, labels = random_boxes(draw, image % 5), draw.integers(0, 2, image % 5)
        for box, label in zip(boxes, labels, strict=True):
            is_crowd = int(draw.random() < crowd)
            shape = box_mask(box) if is_crowd else None
            truth.append(
                {
                    "id": first_id + len(truth),
                    "image_id": image,
                    # the third class has no ground truth; ids are not in class order
                    "category_id": (7, 3, 5)[label],
                    "bbox": box.tolist(),
                    "area": float(box[2] * box[3]),
                    "iscrowd": is_crowd,
                    "segmentation": {**shape, "counts": shape["counts"].decode()}
                    if shape
                    else polygon(box),
                }
            )
        near = boxes + draw.normal(0, 2, boxes.shape) if image % 4 else boxes[:0]
        found = np.vstack([near.clip(0, SIZE - 1), random_boxes(draw, image % 3)])
        found_labels = np.concatenate([labels[: len(near)], draw.integers(0, 3, image % 3)])
        samples.append(sample(image, found, draw.random(len(found)).round(1), found_labels))
    categories = [{"id": i, "name": n} for i, n in zip((7, 3, 5), CLASSES, strict=True)]
    info = [
        {"id": i, "width": SIZE, "height": SIZE, "file_name": f"{i}.jpg"} for i in range(images)
    ]
    content = {"images": info, "annotations": truth, "categories": categories}
    return SimpleNamespace(content=content, samples=samples)


def sample(image, boxes: np.ndarray, scores, labels) -> dict:
    corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    found = InstanceData(
        bboxes=corners, scores=torch.tensor(scores), labels=torch.tensor(labels, dtype=int)
    )
    found.masks = [box_mask(box) for box in boxes]
    return {"img_id": image, "ori_shape": (SIZE, SIZE), "pred_instances": found}


def evaluated(metric_class, tmp_path, scene: SimpleNamespace, **kwargs) -> dict:
    """Metrics of a scene, as a metric class reports them."""
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(scene.content))
    one = metric_class(ann_file=str(path), **kwargs)
    one.dataset_meta = {"classes": CLASSES}
    one.process({}, scene.samples)
    return one.evaluate(len(scene.samples))


def stats(tmp_path, scene: SimpleNamespace, kind: str, backend: str):
    """The statistics of a COCO evaluation, before rounding."""
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(scene.content))
    metric = CocoMetric(str(path), backend=backend)
    metric.cat_ids = [7, 3, 5]
    metric.process({}, scene.samples)
    found = coco_metric.to_annotations([one for _, one in metric.results], kind, metric.cat_ids)
    return metric.run_backend(COCO(str(path)), found, kind)


def assert_the_same(tmp_path, scene: SimpleNamespace, kind: str) -> np.ndarray:
    theirs, ours = (stats(tmp_path, scene, kind, name) for name in ("pycocotools", "faster"))
    # pycocotools adds 2e-16 to a denominator
    np.testing.assert_allclose(ours.stats, theirs.stats, rtol=0, atol=1e-14)
    for table in ("precision", "recall"):
        np.testing.assert_allclose(ours.eval[table], theirs.eval[table], rtol=0, atol=1e-14)
    names = dict(zip((7, 3, 5), CLASSES, strict=True))
    ours_by_class, theirs_by_class = (
        coco_metric.class_metrics(one, names) for one in (ours, theirs)
    )
    for name, metrics in theirs_by_class.items():
        assert ours_by_class[name] == pytest.approx(metrics, abs=1e-14, nan_ok=True)
    return ours.stats


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(4))
def test_random_scenes(kind, seed, tmp_path):
    metrics = assert_the_same(tmp_path, scene(seed), kind)
    assert 0 < metrics[0] < 1
    assert (metrics[3:6] > -1).all()  # every area range occurs


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_only_crowds(kind, tmp_path):
    assert (assert_the_same(tmp_path, scene(crowd=1.0), kind) == -1).all()


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_annotation_of_id_0(kind, tmp_path):
    assert_the_same(tmp_path, scene(first_id=0), kind)


@pytest.mark.parametrize("backend", ["faster", "pycocotools"])
def test_annotation_of_id_0_can_be_found(backend, tmp_path):
    content = scene(crowd=0.0).content
    content["annotations"] = [{**content["annotations"][0], "id": 0}]
    box = np.array([content["annotations"][0]["bbox"]])
    label = (7, 3, 5).index(content["annotations"][0]["category_id"])
    image = content["annotations"][0]["image_id"]
    perfect = SimpleNamespace(content=content, samples=[sample(image, box, [0.9], [label])])
    assert evaluated(CocoMetric, tmp_path, perfect, backend=backend)["coco/bbox_mAP"] == 1.0


def test_metrics_of_classes_tell_boxes_from_masks(tmp_path):
    one = scene()
    one.content["annotations"] = [
        {**a, "segmentation": [*a["segmentation"], [1, 2, 3, 4], []]} if not a["iscrowd"] else a
        for a in one.content["annotations"]
    ]  # parts that are no polygons
    metrics = evaluated(CocoMetric, tmp_path, one, metric=["bbox", "segm"], classwise=True)
    by_class = {key: metrics[f"coco/{key}_dog_precision"] for key in ("bbox", "segm")}
    assert 0 < by_class["bbox"] != by_class["segm"] > 0
    assert np.isnan(metrics["coco/bbox_hat_precision"])  # it has no object


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_more_detections_than_the_maximum(kind, tmp_path):
    crowded = scene()
    draw = np.random.default_rng(5)
    crowded.samples[3] = sample(3, random_boxes(draw, 130), draw.random(130), np.zeros(130))
    assert_the_same(tmp_path, crowded, kind)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("backend", ["faster", "pycocotools"])
def test_nothing_detected(kind, backend, tmp_path):
    empty = scene()
    empty.samples = [sample(i, np.zeros((0, 4)), [], []) for i in range(len(empty.samples))]
    metrics = evaluated(CocoMetric, tmp_path, empty, metric=kind, backend=backend)
    assert set(metrics.values()) == {0.0}
    assert_the_same(tmp_path, empty, kind)


@pytest.mark.parametrize("backend", ["faster", "pycocotools"])
def test_metrics_and_classes_equal_those_of_mmdet(backend, tmp_path):
    """mmdet uses the order of the file, so the categories are in the order of their ids here."""
    ordered = scene(1)
    ordered.content["categories"].sort(key=lambda category: category["id"])
    stock = evaluated(StockMetric, tmp_path, ordered, metric=["bbox", "segm"], classwise=True)
    both = ["bbox", "segm"]
    ours = evaluated(CocoMetric, tmp_path, ordered, metric=both, classwise=True, backend=backend)
    assert sum(name.endswith("_precision") for name in ours) == 2 * len(CLASSES)
    for name, value in stock.items():
        if name.endswith("_precision"):  # there, those of masks replace those of boxes
            name = name.replace("coco/", "coco/segm_")
        assert ours[name] == pytest.approx(value, nan_ok=True), name


def test_classes_keep_their_names_in_any_order_of_ids(tmp_path):
    """Only cups are detected; their id is the largest, and they are first in the file."""
    cups = scene(2, crowd=0.0)
    for annotation in cups.content["annotations"]:
        annotation["category_id"] = 7
    for one in cups.samples:
        one["pred_instances"].labels[:] = 0
    metrics = evaluated(CocoMetric, tmp_path, cups, classwise=True)
    assert metrics["coco/bbox_cup_precision"] > 0
    assert np.isnan([metrics[f"coco/bbox_{name}_precision"] for name in ("dog", "hat")]).all()


def test_mask_scores_are_used_for_masks_only(tmp_path):
    plain, scored = scene(3), scene(3)
    for one in scored.samples:
        found = one["pred_instances"]
        found.mask_scores = 1 - found.scores
    both = ["bbox", "segm"]
    before, after = (evaluated(CocoMetric, tmp_path, s, metric=both) for s in (plain, scored))
    assert before["coco/bbox_mAP"] == after["coco/bbox_mAP"]
    assert before["coco/segm_mAP"] != after["coco/segm_mAP"]


def test_results_are_written_to_outfile_prefix(tmp_path):
    metrics = evaluated(CocoMetric, tmp_path, scene(), outfile_prefix=str(tmp_path / "mine"))
    written = json.loads((tmp_path / "mine.bbox.json").read_text())
    assert metrics
    assert set(written[0]) == {"image_id", "bbox", "score", "category_id"}
    only = {"format_only": True, "outfile_prefix": str(tmp_path / "only")}
    assert evaluated(CocoMetric, tmp_path, scene(), metric="segm", **only) == {}
    assert json.loads((tmp_path / "only.segm.json").read_text())


def test_ground_truth_from_data_samples():
    metric = CocoMetric(backend="faster")
    metric.dataset_meta = {"classes": CLASSES}
    one = sample(0, np.array([[10, 10, 50, 50]]), [0.9], [1])
    one["instances"] = [{"bbox": [10, 10, 60, 60], "bbox_label": 1}]
    metric.process({}, [one])
    assert metric.evaluate(1)["coco/bbox_mAP"] == 1


def test_string_ids_use_pycocotools(tmp_path):
    named = scene()
    for entry in named.content["images"]:
        entry["id"] = f"photo {entry['id']:02}"
    for entry in named.content["annotations"]:
        entry["image_id"] = f"photo {entry['image_id']:02}"
    for entry in named.samples:
        entry["img_id"] = f"photo {entry['img_id']:02}"
    metrics = evaluated(CocoMetric, tmp_path, named)
    assert metrics == evaluated(CocoMetric, tmp_path, scene())
    with pytest.raises(UserError, match="not all integers"):
        evaluated(CocoMetric, tmp_path, named, backend="faster")


def test_without_faster_coco_eval(tmp_path, monkeypatch):
    expected = evaluated(CocoMetric, tmp_path, scene())
    monkeypatch.setattr(coco_metric, "find_spec", lambda _: None)
    assert evaluated(CocoMetric, tmp_path, scene()) == expected
    with pytest.raises(UserError, match="pip install faster-coco-eval"):
        evaluated(CocoMetric, tmp_path, scene(), backend="faster")


def test_invalid_arguments_raise(tmp_path):
    with pytest.raises(UserError, match="auto, faster, pycocotools"):
        CocoMetric(backend="slow")
    boxes = scene()
    for one in boxes.samples:
        del one["pred_instances"].masks
    with pytest.raises(UserError, match="no masks"):
        evaluated(CocoMetric, tmp_path, boxes, metric=["bbox", "segm"])
