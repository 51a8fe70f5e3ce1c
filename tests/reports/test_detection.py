"""The analysis of detections: against COCO's own evaluation, and case by case."""

import numpy as np
import pytest
from mmdet.datasets.api_wrappers import COCO
from pycocotools import mask as rle

from swin_dense.datasets.shapes import ShapesSpec, write_shapes
from swin_dense.engine.config.prepare import load_config
from swin_dense.errors import UserError
from swin_dense.evaluation.coco_metric import for_evaluation
from swin_dense.reports import detection
from swin_dense.reports.detection import ERRORS, Truth

CLASSES = ("cat", "dog", "eel")
IDS = [7, 3, 5]  # the order of labels is not that of ids


def make_truth(images: list[list[tuple]], size: int = 100) -> Truth:
    """Objects of each image: label, box as left, top, width, height, whether it is a crowd."""
    objects = []
    for image, found in enumerate(images):
        for label, box, *crowd in found:
            mask = np.zeros((size, size), np.uint8, order="F")
            left, top, width, height = (int(v) for v in box)
            mask[top : top + height, left : left + width] = 1
            encoded = rle.encode(mask)
            encoded["counts"] = encoded["counts"].decode()
            entry = {"id": len(objects) + 1, "image_id": image, "category_id": IDS[label]}
            entry |= {"bbox": list(box), "area": box[2] * box[3], "iscrowd": int(bool(crowd))}
            objects.append({**entry, "segmentation": encoded})
    coco = COCO()
    coco.dataset = {
        "images": [
            {"id": i, "width": size, "height": size, "file_name": f"{i}.jpg"}
            for i in range(len(images))
        ],
        "annotations": objects,
        "categories": [{"id": i, "name": n} for i, n in zip(IDS, CLASSES, strict=True)],
    }
    return Truth(for_evaluation(coco), list(IDS), CLASSES)


def make_record(image: int, found: list[tuple]) -> dict:
    """Detections: label, box as left, top, width, height, score."""
    boxes = np.array([box for _, box, _ in found], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    masks = []
    for _, (left, top, width, height), _ in found:
        mask = np.zeros((100, 100), np.uint8, order="F")
        mask[int(top) : int(top + height), int(left) : int(left + width)] = 1
        masks.append(rle.encode(mask))
    return {
        "img_id": image,
        "img_path": f"{image}.jpg",
        "bboxes": boxes,
        "labels": np.array([label for label, *_ in found], int),
        "scores": np.array([score for *_, score in found], np.float32),
        "masks": masks,
    }


@pytest.fixture(scope="module")
def random_case() -> tuple[Truth, list[dict]]:
    rng = np.random.default_rng(1)
    images, records = [], []
    for image in range(30):
        objects, found = [], []
        for _ in range(rng.integers(0, 6)):
            label, box = int(rng.integers(3)), [*rng.integers(5, 50, 2), *rng.integers(10, 40, 2)]
            box = [int(v) for v in box]
            objects.append((label, box, True) if rng.random() < 0.15 else (label, box))
            for _ in range(rng.integers(0, 4)):
                near = [int(max(1, v + rng.integers(-6, 7))) for v in box]
                other = label if rng.random() < 0.8 else int(rng.integers(3))
                found.append((other, near, float(rng.random())))
        images.append(objects)
        records.append(make_record(image, found))
    return make_truth(images), records


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_average_precision_is_that_of_coco(random_case, kind):
    truth, records = random_case
    by_class, precision = detection.evaluate_classes(truth, records, kind)
    found = detection.match(truth, records, kind)
    base, costs = detection.cost_of_errors(found, 3)
    expected = np.mean([aps["mAP_50"] for aps in by_class.values()])
    assert 0.2 < expected < 0.9
    assert base == pytest.approx(expected, abs=1e-9)
    for name, line in zip(CLASSES, precision, strict=True):
        assert line.mean() == pytest.approx(by_class[name]["mAP_50"])
    assert all(0 <= cost <= 1 - base for cost in costs.values())
    assert sum(cost > 0.001 for cost in costs.values()) >= 3


def test_kinds_of_errors():
    truth = make_truth(
        [[(0, (0, 0, 20, 20)), (1, (50, 0, 20, 20)), (2, (0, 50, 20, 20)), (2, (70, 70, 9, 9), 1)]]
    )
    records = [
        make_record(
            0,
            [
                (0, (0, 0, 20, 20), 0.9),  # correct
                (0, (0, 0, 20, 18), 0.8),  # found already
                (0, (50, 0, 20, 20), 0.7),  # a dog
                (1, (50, 12, 20, 20), 0.6),  # IoU 0.25 with the dog
                (2, (0, 12, 20, 20), 0.5),  # IoU 0.25 with the cat, which is no eel
                (1, (80, 30, 10, 10), 0.4),  # nothing is there
                (2, (70, 70, 9, 9), 0.3),  # of a crowd: does not count
            ],
        )
    ]
    found = detection.match(truth, records, "bbox")
    names = [ERRORS[one] if one >= 0 else one for one in found.outcome.tolist()]
    kinds = ["duplicate", "class", "localisation", "class and localisation", "background"]
    assert names == [detection.CORRECT, *kinds, detection.IGNORED]
    assert detection.count_errors(found) == dict.fromkeys(ERRORS, 1)  # the eel is missed
    table = detection.confusion(found, 3)
    expected = np.zeros((4, 4), int)
    expected[0, 0] = expected[1, 0] = 1  # the cat as a cat, the dog as a cat
    expected[2, 3] = 1  # the eel is missed
    expected[3] = [1, 2, 1, 0]  # what has no object
    assert (table == expected).all()
    (image,) = detection.score_images(found)
    assert (image.found, image.missed, image.false) == (1, 2, 5)
    _, f1 = detection.f1_by_score(found)
    assert f1[85] == pytest.approx(2 / (1 + 3))
    assert f1[0] == pytest.approx(2 / (6 + 3))
    shown = detection.above(records, 0.65)
    assert [len(one["masks"]) for one in shown] == [3]


def test_mending_errors():
    """One object found a bit aside, one as another class: each kind hides half of the AP."""
    truth = make_truth([[(0, (0, 0, 20, 20)), (1, (50, 0, 20, 20))]])
    records = [make_record(0, [(0, (0, 12, 20, 20), 0.9), (0, (50, 0, 20, 20), 0.8)])]
    base, costs = detection.cost_of_errors(detection.match(truth, records, "bbox"), 2)
    assert base == 0
    assert costs["localisation"] == pytest.approx(0.5)
    assert costs["class"] == pytest.approx(0.5)
    assert sum(costs.values()) == pytest.approx(1.0)


def test_nothing_detected():
    truth = make_truth([[(0, (0, 0, 20, 20))], []])
    records = [make_record(0, []), make_record(1, [])]
    found = detection.match(truth, records, "segm")
    assert detection.count_errors(found)["missed"] == 1
    assert detection.cost_of_errors(found, 3)[0] == 0
    assert detection.confusion(found, 3)[0, 3] == 1
    by_class, precision = detection.evaluate_classes(truth, records, "segm")
    assert by_class["cat"]["mAP"] == 0
    assert precision.shape == (3, 101)
    assert [one.f1 for one in detection.score_images(found)] == [1.0, 0.0]


def test_truth_of_data_sets_without_a_file_for_the_evaluator(tmp_path, repo):
    """What mmdet's data sets hold, of any format, is the same as the evaluator's own file."""
    write_shapes(tmp_path, ShapesSpec(train=1, val=3, size=64))
    cfg = load_config(repo / "tests" / "tools" / "tiny_detector.py", data_root=tmp_path)
    records = [{"img_id": i} for i in (1, 3)]
    of_file = detection.read_truth(cfg, "val", records)
    del cfg.val_evaluator["ann_file"]
    found = detection.read_truth(cfg, "val", records)
    assert found.classes == of_file.classes
    assert found.has_masks()
    assert len(found.coco.dataset["annotations"]) > 2
    for number in (1, 3):
        one, other = (truth.coco.imgToAnns[number] for truth in (found, of_file))
        assert [a["bbox"] for a in one] == [a["bbox"] for a in other]
        labels = [
            [truth.category_ids.index(a["category_id"]) for a in objects]
            for truth, objects in ((found, one), (of_file, other))
        ]
        assert labels[0] == labels[1]
        masks = (found.coco.annToMask(one[0]), of_file.coco.annToMask(other[0]))
        assert (masks[0] == masks[1]).all()
        assert masks[0].any()
    with pytest.raises(UserError, match="1 of 2 predicted images are not in the val data"):
        detection.read_truth(cfg, "val", [{"img_id": 1}, {"img_id": 999}])
