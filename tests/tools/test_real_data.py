"""The paper's recipes with small models and image sizes, on real COCO and ADE20K images."""

import json
from pathlib import Path

import numpy as np
import pytest

SMALL_BACKBONE = [
    "model.backbone.arch=None",
    "model.backbone.embed_dims=24",
    "model.backbone.depths=[1,1,1,1]",
]
PIPELINE = "train_dataloader.dataset.pipeline"
ROI = "model.roi_head"
CASCADE = [
    *SMALL_BACKBONE,
    "model.neck.in_channels=[24,48,96,192]",
    "model.neck.out_channels=16",
    "model.rpn_head.in_channels=16",
    "model.rpn_head.feat_channels=16",
    f"{ROI}.bbox_roi_extractor.out_channels=16",
    f"{ROI}.mask_roi_extractor.out_channels=16",
    f"{ROI}.mask_head.in_channels=16",
    f"{ROI}.mask_head.conv_out_channels=16",
    *(
        f"{ROI}.bbox_head.{stage}.{setting}"
        for stage in range(3)
        for setting in ("in_channels=16", "conv_out_channels=16", "fc_out_channels=32")
    ),
    *(f"model.train_cfg.rcnn.{stage}.sampler.num=32" for stage in range(3)),
    "model.train_cfg.rpn_proposal.max_per_img=50",
    "model.test_cfg.rpn.max_per_img=50",
    "model.test_cfg.rcnn.max_per_img=10",
    "model.test_cfg.rcnn.score_thr=0.0",  # untrained: without detections there are no metrics
    f"{PIPELINE}.3.transforms.0.0.scales=[(96,160)]",
    f"{PIPELINE}.3.transforms.1.0.scales=[(96,160)]",
    f"{PIPELINE}.3.transforms.1.1.crop_size=(60,90)",
    f"{PIPELINE}.3.transforms.1.2.scales=[(96,160)]",
    "train_cfg.max_epochs=1",
]
UPERNET = [
    *SMALL_BACKBONE,
    "model.decode_head.in_channels=[24,48,96,192]",
    "model.decode_head.channels=32",
    "model.auxiliary_head.in_channels=96",
    f"{PIPELINE}.2.scale=(512,128)",
    f"{PIPELINE}.3.crop_size=(128,128)",
    "model.data_preprocessor.size=(128,128)",
    "train_cfg.max_iters=2",
    "train_cfg.val_interval=2",
    "default_hooks.checkpoint.interval=2",
]
COMMON = [
    "train_dataloader.num_workers=0",
    "train_dataloader.dataset.indices=4",
    "default_hooks.logger.interval=1",
    *(
        f"{split}_dataloader.{setting}"
        for split in ("val", "test")
        for setting in ("num_workers=0", "dataset.indices=4", "dataset.pipeline.1.scale=(256,128)")
    ),
]


@pytest.mark.parametrize(
    ("leaf", "data", "options", "metrics"),
    [
        ("cascade_swin_t_coco", "coco_mini", CASCADE, {"coco/bbox_mAP", "coco/segm_mAP"}),
        ("upernet_swin_t_ade20k", "ade_mini", UPERNET, {"mIoU", "aAcc"}),
    ],
)
def test_recipes_train_and_test_on_real_images(
    tool, repo, shared, tmp_path, leaf, data, options, metrics
):
    config = repo / "configs" / f"{leaf}.py"
    flags = ["--data-root", shared / "data" / data, "--work-dir", tmp_path]
    flags += ["--cfg-options", *options, *COMMON]
    assert tool("train", config, "--from-scratch", "--seed", 0, *flags) == 0
    (run,) = tmp_path.glob("*/vis_data")
    records = [json.loads(line) for line in (run / "scalars.json").read_text().splitlines()]
    losses = [r["loss"] for r in records if "loss" in r]
    assert len(losses) == 2
    assert np.isfinite(losses).all()
    trained_to = read_metrics(run.parent)
    assert metrics <= set(trained_to)
    assert tool("test", config, tmp_path / "last.pth", *flags) == 0
    (tested,) = set(tmp_path.glob("*/metrics.json")) - {run.parent / "metrics.json"}
    assert read_metrics(tested.parent) == trained_to


def read_metrics(log_dir: Path) -> dict:
    return json.loads((log_dir / "metrics.json").read_text())[-1]["metrics"]
