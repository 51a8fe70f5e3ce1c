"""Test-time augmentation: predicting several views of each image and merging the results."""

from copy import deepcopy

from mmengine.config import Config, ConfigDict

from swin_dense import config_tree
from swin_dense.config_tree import is_segmentation
from swin_dense.engine.config.own_data import drop_masks
from swin_dense.engine.terminal.console import notify_user
from swin_dense.errors import UserError


def use_tta(cfg: Config) -> None:
    """Makes the config test with several views: its ``tta_pipeline``, else the image and its flip.

    Masks of two-stage detectors are merged too, by
    :class:`~swin_dense.models.detectors.InstanceTTAModel`; other models with masks are tested
    without them, and the user is told.

    Raises:
        UserError: the model predicts masks only.
    """
    merges_masks = bool((cfg.model.get("roi_head") or {}).get("mask_head"))
    if not is_segmentation(cfg) and not merges_masks:
        _drop_masks(cfg)
    if not cfg.get("tta_model"):
        tta_cfg = {"nms": {"type": "nms", "iou_threshold": 0.5}, "max_per_img": 100}
        detector = {"type": "swin_dense.InstanceTTAModel", "tta_cfg": tta_cfg}
        cfg.tta_model = {"type": "SegTTAModel"} if is_segmentation(cfg) else detector
    if merges_masks and cfg.tta_model.type == "DetTTAModel":
        cfg.tta_model.type = "swin_dense.InstanceTTAModel"
    if not cfg.get("tta_pipeline"):
        cfg.tta_pipeline = _flip_pipeline(cfg)
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    for dataset in config_tree.split_datasets(cfg, "test"):
        dataset["pipeline"] = cfg.tta_pipeline


def _drop_masks(cfg: Config) -> None:
    box_head = cfg.model.get("bbox_head")
    if cfg.model.get("mask_head") and not box_head:
        raise UserError("--tta merges boxes and the masks of two-stage detectors: remove the flag")
    if cfg.model.get("mask_head") or (isinstance(box_head, dict) and box_head.get("mask_head")):
        drop_masks(cfg)
        notify_user("--tta merges only the boxes of this model: it predicts no masks")


def _flip_pipeline(cfg: Config) -> list:
    """The test pipeline, its last step (packing) done for the image and for its mirror image."""
    pipeline = deepcopy(next(config_tree.split_datasets(cfg, "test"))["pipeline"])
    pack = pipeline.pop()
    loads = [step for step in pipeline if str(step["type"]).endswith("LoadAnnotations")]
    steps = [step for step in pipeline if not str(step["type"]).endswith("LoadAnnotations")]
    if not is_segmentation(cfg):
        pack["meta_keys"] = ["img_id", "img_path", "ori_shape", "img_shape", "scale_factor"]
        pack["meta_keys"] += ["flip", "flip_direction"]
    flips = [{"type": "RandomFlip", "prob": 0.0}, {"type": "RandomFlip", "prob": 1.0}]
    views = [flips, *([[step] for step in loads]), [pack]]
    return [*steps, ConfigDict(type="TestTimeAug", transforms=views)]
