"""Soft Teacher on real images with labels and, in a folder of their own, without."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from exact_training import EXACT, differences

ROI = "model.detector.roi_head"
SEMI = "model.semi_train_cfg"
SETS = "train_dataloader.dataset.datasets"
OPTIONS = [
    "model.detector.backbone.arch=None",
    "model.detector.backbone.embed_dims=24",
    "model.detector.backbone.depths=[1,1,1,1]",
    "model.detector.neck.in_channels=[24,48,96,192]",
    "model.detector.neck.out_channels=16",
    "model.detector.rpn_head.in_channels=16",
    "model.detector.rpn_head.feat_channels=16",
    f"{ROI}.bbox_roi_extractor.out_channels=16",
    f"{ROI}.bbox_head.in_channels=16",
    f"{ROI}.bbox_head.fc_out_channels=32",
    "model.detector.train_cfg.rcnn.sampler.num=32",
    "model.detector.train_cfg.rpn_proposal.max_per_img=50",
    "model.detector.test_cfg.rpn.max_per_img=50",
    "model.detector.test_cfg.rcnn.max_per_img=10",
    "model.detector.test_cfg.rcnn.score_thr=0.0",
    # An untrained teacher is sure of nothing: take all of its boxes.
    *(f"{SEMI}.{key}=0.0" for key in ("pseudo_label_initial_score_thr", "rpn_pseudo_thr")),
    *(f"{SEMI}.{key}" for key in ("cls_pseudo_thr=0.0", "reg_pseudo_thr=9.0")),
    "train_dataloader.num_workers=0",
    "train_dataloader.batch_size=2",
    "train_dataloader.sampler.batch_size=2",
    f"{SETS}.0.pipeline.2.scale=[(160,96),(160,128)]",
    f"{SETS}.1.data_prefix.img=val2017/",
    f"{SETS}.1.pipeline.2.unsup_teacher.0.scale=[(160,96),(160,128)]",
    f"{SETS}.1.pipeline.2.unsup_student.0.scale=[(160,96),(160,128)]",
    "param_scheduler.0.start_factor=1.0",
    "optim_wrapper.optimizer.lr=0.01",
    "default_hooks.logger.interval=1",
    "default_hooks.checkpoint.interval=1",
    "train_cfg.max_iters=3",
    "train_cfg.val_interval=3",
    *(
        f"{split}_dataloader.{setting}"
        for split in ("val", "test")
        for setting in ("num_workers=0", "dataset.indices=2", "dataset.pipeline.1.scale=(160,96)")
    ),
]


@pytest.fixture
def data_root(shared, tmp_path) -> Path:
    """COCO's excerpt: its training images have labels, those for validation, as far as known, not.

    The list of the latter has no annotations at all.
    """
    root, source = tmp_path / "coco", shared / "data" / "coco_mini"
    (root / "semi_anns").mkdir(parents=True)
    for folder in ("train2017", "val2017", "annotations"):
        (root / folder).symlink_to(source / folder)
    for split, name in (("train", "1@10"), ("val", "1@10-unlabeled")):
        content = json.loads((source / f"annotations/instances_{split}2017.json").read_text())
        if split == "val":
            del content["annotations"]
        file = root / "semi_anns" / f"instances_train2017.{name}.json"
        file.write_text(json.dumps(content))
    return root


def checkpoint(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def test_trains_resumes_exactly_and_tests_the_teacher(tool, repo, data_root, tmp_path, capsys):
    config, whole = repo / "configs" / "soft_teacher_swin_t_coco.py", tmp_path / "whole"
    flags = ["--data-root", data_root, "--device", "cpu", "--cfg-options", *OPTIONS]
    flags_of_first = ["--from-scratch", "--seed", 0, "--work-dir", whole, "--report"]
    assert tool("train", config, *flags_of_first, *flags) == 0
    out = capsys.readouterr().out
    assert "teacher bbox" in out
    assert "warning" not in out
    assert f"report: {whole / 'report.html'}" in out
    (run,) = whole.glob("*/vis_data")
    records = [json.loads(line) for line in (run / "scalars.json").read_text().splitlines()]
    losses = [record for record in records if "loss" in record]
    kinds = ("loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox")
    names = {f"{part}_{kind}" for part in ("sup", "unsup") for kind in kinds}
    assert len(losses) == 3
    assert names <= {name.replace("rpn_loss", "loss") for name in losses[0]}, losses[0]
    assert np.isfinite([record["loss"] for record in losses]).all()
    assert all(record["unsup_loss_cls"] > 0 for record in losses)

    last = checkpoint(whole / "last.pth")
    moved = differences(checkpoint(whole / "iter_1.pth")["state_dict"], last["state_dict"])
    name = "backbone.patch_embed.projection.weight"
    assert {f".student.{name}", f".teacher.{name}"} <= set(moved)
    again, saved = tmp_path / "again", whole / "iter_2.pth"
    assert tool("train", config, "--resume", saved, "--work-dir", again, *flags) == 0
    assert "not exact" not in capsys.readouterr().out
    found = checkpoint(again / "last.pth")
    for part in EXACT:
        if part != "ema_state_dict":
            assert not differences(last[part], found[part], part)

    tested = tmp_path / "tested"
    assert tool("test", config, whole / "last.pth", "--work-dir", tested, *flags) == 0
    metrics = [json.loads(next(d.glob("*/metrics.json")).read_text())[-1] for d in (whole, tested)]
    both, teachers = (one["metrics"] for one in metrics)
    assert {f"teacher/{key}": value for key, value in teachers.items()}.items() <= both.items()
