"""COCO's own evaluation example, through the evaluator of the COCO configs."""

import json
from pathlib import Path

import pytest
import torch
from mmdet.datasets import CocoDataset
from mmengine import Config
from mmengine.registry import METRICS
from mmengine.structures import InstanceData

from swin_dense.evaluation import CocoMetric

METRIC_NAMES = (
    *("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l"),
    *("AR@1", "AR@10", "AR@100", "AR_s@100", "AR_m@100", "AR_l@100"),
)


def data_samples(truth: dict, results: list[dict]) -> list[dict]:
    """Convert COCO results to data samples as a detector returns them, one per image."""
    labels = {category["id"]: i for i, category in enumerate(truth["categories"])}
    samples = []
    for image in truth["images"]:
        own = [result for result in results if result["image_id"] == image["id"]]
        boxes = [result.get("bbox", [0, 0, 1, 1]) for result in own]
        corners = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        predicted = InstanceData(
            bboxes=corners,
            scores=torch.tensor([result["score"] for result in own], dtype=torch.float64),
            labels=torch.tensor([labels[result["category_id"]] for result in own], dtype=int),
        )
        if "segmentation" in results[0]:
            predicted.masks = [result["segmentation"] for result in own]
        samples.append(
            {
                "img_id": image["id"],
                "ori_shape": (image["height"], image["width"]),
                "pred_instances": predicted,
            }
        )
    return samples


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("backend", ["auto", "faster", "pycocotools"])
def test_published_metrics_are_reproduced(kind, backend, shared, repo):
    if backend == "faster":
        pytest.importorskip("faster_coco_eval")
    folder: Path = shared / "data" / "coco_golden"
    truth = json.loads((folder / "instances_val2014_100.json").read_text())
    results = json.loads((folder / f"instances_val2014_fake{kind}100_results.json").read_text())
    expected = json.loads((folder / "expected_stats.json").read_text())[kind]

    cfg = Config.fromfile(repo / "configs" / "cascade_swin_t_coco.py").val_evaluator
    cfg.update(ann_file=str(folder / "instances_val2014_100.json"), metric=kind, backend=backend)
    metric = METRICS.build(cfg)
    assert type(metric) is CocoMetric
    metric.dataset_meta = CocoDataset.METAINFO
    metric.process({}, data_samples(truth, results))
    measured = metric.evaluate(len(truth["images"]))

    assert list(measured) == [f"coco/{kind}_{name}" for name in METRIC_NAMES]
    for name, value in zip(METRIC_NAMES, expected, strict=True):
        # the metric rounds to three decimals
        assert measured[f"coco/{kind}_{name}"] == pytest.approx(value, abs=5.01e-4), name


def test_proposal_metrics_raise():
    with pytest.raises(ValueError, match="'bbox', 'segm'"):
        CocoMetric(metric="proposal")
