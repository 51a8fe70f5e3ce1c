"""The leaves with a Swin backbone follow the official recipes."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from leaves import load
from mmengine import Config
from mmengine.dataset import Compose
from mmengine.optim import LinearLR, MultiStepLR, PolyLR, build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope

LEAVES = {  # arch, stochastic depth of the last block
    "cascade_swin_t_coco": ("tiny", 0.2),
    "cascade_swin_s_coco": ("small", 0.2),
    "cascade_swin_b_coco": ("base", 0.3),
    "cascade_swin_t_1x_coco": ("tiny", 0.0),
    "mask_rcnn_swin_t_coco": ("tiny", 0.2),
    "mask_rcnn_swin_s_coco": ("small", 0.2),
    "mask_rcnn_swin_t_1x_coco": ("tiny", 0.1),
    "atss_swin_t_coco": ("tiny", 0.2),
    "upernet_swin_t_ade20k": ("tiny", 0.3),
    "upernet_swin_s_ade20k": ("small", 0.3),
    "upernet_swin_b_512_ade20k": ("base", 0.3),
    "upernet_swin_b_ade20k": ("base", 0.3),
    "upernet_swin_l_ade20k": ("large", 0.3),
}
COCO = [name for name in LEAVES if name.endswith("_coco")]
ADE20K = [name for name in LEAVES if name.endswith("_ade20k")]
IN_22K = ["upernet_swin_b_ade20k", "upernet_swin_l_ade20k"]
NO_DECAY = ("absolute_pos_embed", "relative_position_bias_table", "norm")


def build_on_meta(cfg: Config) -> torch.nn.Module:
    """Build the model on the meta device."""
    with torch.device("meta"), DefaultScope.overwrite_default_scope(cfg.default_scope):
        return MODELS.build(cfg.model)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A 640 x 480 image of noise."""
    path = tmp_path / "photo.png"
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    cv2.imwrite(str(path), noise)
    return path


@pytest.mark.parametrize(("name", "row"), LEAVES.items(), ids=LEAVES)
def test_backbone_arguments(name, row):
    backbone = load(name).model.backbone
    assert (backbone.arch, backbone.drop_path_rate) == row
    assert backbone.get("window_size", 7) == 7


@pytest.mark.parametrize("name", LEAVES)
def test_pretrained_weights_are_official(name):
    init = load(name).model.backbone.init_cfg
    pretraining = "_22k" if name in IN_22K else ""
    assert init.type == "Pretrained"
    assert init.checkpoint == (
        "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/"
        f"swin_{LEAVES[name][0]}_patch4_window7_224{pretraining}.pth"
    )


@pytest.mark.parametrize("name", COCO)
def test_coco_recipe(name):
    cfg = load(name)
    epochs, milestones = (12, [8, 11]) if "1x" in name else (36, [27, 33])
    optimizer = cfg.optim_wrapper.optimizer
    assert cfg.optim_wrapper.type == "AmpOptimWrapper"
    assert cfg.train_cfg.max_epochs == epochs
    assert optimizer.to_dict() == {
        "type": "AdamW",
        "lr": 1e-4,
        "betas": (0.9, 0.999),
        "weight_decay": 0.05,
    }
    warm_up, decay = cfg.param_scheduler
    assert (warm_up.start_factor, warm_up.end, warm_up.by_epoch) == (0.001, 500, False)
    assert (decay.milestones, decay.gamma, decay.by_epoch) == (milestones, 0.1, True)
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == 16
    assert cfg.train_dataloader.dataset.data_root == cfg.val_dataloader.dataset.data_root
    assert cfg.val_evaluator.ann_file == "data/coco/annotations/instances_val2017.json"
    assert ("segm" in cfg.val_evaluator.metric) == (name != "atss_swin_t_coco")


@pytest.mark.parametrize("name", ADE20K)
def test_ade20k_recipe(name):
    cfg = load(name)
    crop, scale = (640, (2560, 640)) if name in IN_22K else (512, (2048, 512))
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ("AdamW", 6e-5, 0.01)
    assert cfg.train_cfg.max_iters == 160000
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == 16
    assert cfg.model.data_preprocessor.size == (crop, crop)
    assert cfg.model.auxiliary_head.loss_decode.loss_weight == 0.4
    assert cfg.model.decode_head.num_classes == cfg.model.auxiliary_head.num_classes == 150
    resize, crop_step = (
        next(step for step in cfg.train_dataloader.dataset.pipeline if step.type == kind)
        for kind in ("RandomResize", "RandomCrop")
    )
    assert (resize.scale, resize.ratio_range) == (scale, (0.5, 2.0))
    assert (crop_step.crop_size, crop_step.cat_max_ratio) == ((crop, crop), 0.75)
    assert (
        next(s.scale for s in cfg.test_dataloader.dataset.pipeline if s.type == "Resize") == scale
    )
    scales = [step.scale for step in cfg.tta_pipeline[1].transforms[0]]
    assert scales == [
        (int(scale[0] * r), int(scale[1] * r)) for r in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    ]


def test_cascade_heads_are_4conv1fc_with_giou_loss():
    heads = load("cascade_swin_t_coco").model.roi_head.bbox_head
    stds = [[0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1], [0.033, 0.033, 0.067, 0.067]]
    assert [head.bbox_coder.target_stds for head in heads] == stds
    for head in heads:
        assert (head.num_shared_convs, head.num_shared_fcs) == (4, 1)
        assert (head.conv_out_channels, head.fc_out_channels) == (256, 1024)
        assert head.norm_cfg.type == "SyncBN"
        assert head.reg_decoded_bbox
        assert not head.reg_class_agnostic
        assert (head.loss_bbox.type, head.loss_bbox.loss_weight) == ("GIoULoss", 10.0)


def test_one_stage_head_leaves_no_output_norm_unused():
    model = load("atss_swin_t_coco").model
    assert model.backbone.out_indices == (1, 2, 3)
    assert (model.neck.start_level, model.neck.in_channels) == (0, [192, 384, 768])


@pytest.mark.parametrize("name", ["cascade_swin_t_coco", "upernet_swin_t_ade20k"])
@pytest.mark.filterwarnings("ignore")
def test_position_terms_and_norms_have_no_weight_decay(name):
    cfg = load(name)
    model = build_on_meta(cfg)
    wrapper_cfg = {**cfg.optim_wrapper.to_dict(), "type": "OptimWrapper"}  # AMP needs a GPU
    optimizer = build_optim_wrapper(model, wrapper_cfg).optimizer
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    free = {names[id(g["params"][0])] for g in optimizer.param_groups if g["weight_decay"] == 0}
    assert free == {key for key in names.values() if any(part in key for part in NO_DECAY)}
    assert any("relative_position_bias_table" in key for key in free)
    assert {g["weight_decay"] for g in optimizer.param_groups} == {
        0,
        cfg.optim_wrapper.optimizer.weight_decay,
    }


@pytest.mark.parametrize("name", LEAVES)
def test_all_leaves_have_the_same_weight_decay_exceptions(name):
    custom_keys = load(name).optim_wrapper.paramwise_cfg.custom_keys
    assert custom_keys.to_dict() == {key: {"decay_mult": 0.0} for key in NO_DECAY}


def learning_rates(cfg: Config, iterations: int) -> list[float]:
    """Return the factor of the base learning rate at each of the first iterations."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    kinds = {"LinearLR": LinearLR, "PolyLR": PolyLR, "MultiStepLR": MultiStepLR}
    schedulers = []
    for scheduler in cfg.param_scheduler:
        arguments = scheduler.to_dict()
        schedulers.append(kinds[arguments.pop("type")](optimizer, **arguments))
    factors = []
    for _ in range(iterations):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for scheduler in schedulers:
            if not scheduler.by_epoch:
                scheduler.step()
    return factors


def test_segmentation_warmup_multiplies_the_decay():
    factors = learning_rates(load("upernet_swin_t_ade20k"), 3001)
    for iteration in (0, 10, 750, 1400, 1600, 3000):
        warm_up = 1e-6 + (1 - 1e-6) * min(iteration / 1500, 1)
        assert factors[iteration] == pytest.approx(warm_up * (1 - iteration / 160000), abs=1e-3)


def test_detection_warms_up_over_500_iterations():
    factors = learning_rates(load("cascade_swin_t_coco"), 600)
    assert factors[0] == pytest.approx(0.001)
    assert factors[250] == pytest.approx(0.5, abs=0.01)
    assert factors[599] == pytest.approx(1.0)


def run_pipeline(cfg: Config, pipeline: list, results: dict) -> dict:
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return Compose(pipeline)(results)


def box_annotations(photo: Path) -> dict:
    box = [100.0, 120.0, 300.0, 400.0]
    polygon = [100.0, 120.0, 300.0, 120.0, 300.0, 400.0, 100.0, 400.0]
    instance = {"bbox": box, "bbox_label": 3, "ignore_flag": 0, "mask": [polygon]}
    return {
        "img_path": str(photo),
        "img_id": 1,
        "height": 480,
        "width": 640,
        "instances": [instance],
    }


@pytest.mark.parametrize("name", ["cascade_swin_t_coco", "atss_swin_t_coco"])
def test_detection_training_image_sizes(name, photo):
    cfg = load(name)
    np.random.seed(0)
    ratios = []
    for _ in range(12):
        packed = run_pipeline(cfg, cfg.train_dataloader.dataset.pipeline, box_annotations(photo))
        height, width = packed["inputs"].shape[1:]
        assert min(height, width) in range(480, 801, 32)
        assert max(height, width) <= 1333
        instances = packed["data_samples"].gt_instances
        assert ("masks" in instances) == (name != "atss_swin_t_coco")
        if len(instances):
            assert instances.bboxes.tensor.max() <= max(height, width)
        ratios.append(width / height)
    only_resized = [abs(ratio - 640 / 480) < 0.01 for ratio in ratios]
    assert any(only_resized), "no image was only resized"
    assert not all(only_resized), "no image was cropped"


def test_detection_tta_views(photo):
    cfg = load("cascade_swin_t_coco")
    views = run_pipeline(cfg, cfg.tta_pipeline, box_annotations(photo))
    shapes = {tuple(view.shape[1:]) for view in views["inputs"]}
    assert shapes == {(640, 853), (800, 1067), (960, 1280)}
    assert sorted(s.flip for s in views["data_samples"]) == [False] * 3 + [True] * 3
    with DefaultScope.overwrite_default_scope("mmdet"), torch.device("meta"):
        MODELS.build({**cfg.tta_model.to_dict(), "module": cfg.model})


@pytest.mark.parametrize("name", ["upernet_swin_t_ade20k", "upernet_swin_b_ade20k"])
def test_segmentation_training_crops_and_test_views(name, photo, tmp_path):
    cfg = load(name)
    crop = cfg.model.data_preprocessor.size[0]
    seg_map = tmp_path / "map.png"
    cv2.imwrite(str(seg_map), np.random.default_rng(0).integers(0, 151, (480, 640), dtype=np.uint8))
    results = {
        "img_path": str(photo),
        "seg_map_path": str(seg_map),
        "reduce_zero_label": True,
        "seg_fields": [],
        "label_map": None,
    }
    np.random.seed(0)
    packed = run_pipeline(cfg, cfg.train_dataloader.dataset.pipeline, {**results, "seg_fields": []})
    assert max(packed["inputs"].shape[1:]) <= crop
    labels = packed["data_samples"].gt_sem_seg.data
    assert labels.shape[1:] == packed["inputs"].shape[1:]
    assert set(labels.unique().tolist()) <= {*range(150), 255}
    views = run_pipeline(cfg, cfg.tta_pipeline, {**results, "seg_fields": []})
    assert len(views["inputs"]) == 12
    assert {min(v.shape[1:]) for v in views["inputs"]} == {
        int(crop * r) for r in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    }
