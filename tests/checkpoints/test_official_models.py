"""The officially released detectors and segmentors load into our configs."""

import official_files as files
import pytest
import torch
from mmdet.models.backbones.swin import swin_converter
from mmdet.structures import DetDataSample
from mmengine.registry import MODELS, DefaultScope

from swin_dense.checkpoints import convert_checkpoint, load_converted
from swin_dense.engine.config.prepare import load_config
from swin_dense.engine.weights import load_weights

ADE = files.Sizes(classes=150)
MODELS_OF = {
    "mask_rcnn_swin_t_coco": (files.mask_rcnn, files.Sizes()),
    "mask_rcnn_swin_s_coco": (files.mask_rcnn, files.Sizes(depths=(2, 2, 18, 2))),
    "cascade_swin_t_coco": (files.cascade, files.Sizes()),
    "cascade_swin_b_coco": (
        files.cascade,
        files.Sizes(channels=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32)),
    ),
    "upernet_swin_t_ade20k": (files.upernet, ADE),
}


def build(cfg, device="cpu"):
    with torch.device(device), DefaultScope.overwrite_default_scope(cfg.default_scope):
        return MODELS.build(cfg.model)


@pytest.mark.parametrize("name", MODELS_OF)
def test_every_released_parameter_is_loaded(repo, name):
    """At full size, with shapes only."""
    layout, sizes = MODELS_OF[name]
    model = build(load_config(repo / "configs" / f"{name}.py"), "meta")
    state = {key: torch.empty(shape, device="meta") for key, shape in layout(sizes)}
    converted, report = convert_checkpoint(model, {"state_dict": state}, "released.pth")
    load_converted(model, converted, report, exact=True)
    assert report.layout == "official"
    assert not report.missing
    assert not report.unexpected
    assert not report.resized
    statistics = [n for n, _ in model.named_buffers() if n.endswith(("mean", "var"))]
    statistics = [n for n in statistics if n.startswith(("roi_head", "decode", "auxiliary"))]
    assert len(report.loaded) == len(list(model.parameters())) + len(statistics)


def shrunk(repo, name):
    """The config with small widths, and the same sizes for :mod:`official_files`."""
    sizes = files.Sizes(
        channels=8, depths=(1, 2, 1, 1), heads=(1, 1, 2, 2), window=4, neck=8, fc=16, segment=8
    )
    cfg = load_config(repo / "configs" / f"{name}.py", from_scratch=True)
    model = cfg.model
    for key in ("arch", "pretrain_img_size"):
        model.backbone.pop(key, None)
    model.backbone.update(embed_dims=8, depths=sizes.depths, num_heads=sizes.heads, window_size=4)
    widths = [8, 16, 32, 64]
    if "decode_head" in model:
        model.decode_head.update(in_channels=widths, channels=8, norm_cfg={"type": "BN"})
        model.auxiliary_head.update(in_channels=32, channels=8, norm_cfg={"type": "BN"})
        return cfg, files.Sizes(**{**vars(sizes), "classes": 150, "auxiliary": 8})
    model.neck.update(in_channels=widths, out_channels=8)
    model.rpn_head.update(in_channels=8, feat_channels=8)
    roi = model.roi_head
    for part in (roi.bbox_roi_extractor, roi.mask_roi_extractor):
        part.out_channels = 8
    boxes = roi.bbox_head if isinstance(roi.bbox_head, list) else [roi.bbox_head]
    for head in boxes:
        head.update(in_channels=8, fc_out_channels=16)
        if "conv_out_channels" in head:
            head.update(conv_out_channels=8, norm_cfg={"type": "BN"})
    roi.mask_head.update(in_channels=8, conv_out_channels=8)
    model.test_cfg.rcnn.score_thr = 0.0  # random heads give low scores
    return cfg, sizes


def as_mmdet_converts(state):
    """The same weights in OpenMMLab's layout, by mmdet's own converter."""
    backbone = {k.removeprefix("backbone."): v for k, v in state.items() if "backbone." in k}
    converted = {f"backbone.{k}": v for k, v in swin_converter(backbone).items()}
    return {k: v for k, v in state.items() if "backbone." not in k} | converted


@pytest.mark.parametrize(
    "name", ["mask_rcnn_swin_t_coco", "cascade_swin_t_coco", "upernet_swin_t_ade20k"]
)
def test_predictions_equal_those_of_weights_converted_by_mmdet(repo, name, capsys):
    cfg, sizes = shrunk(repo, name)
    layout, _ = MODELS_OF[name]
    state = files.random_state(layout(sizes))
    ours, theirs = build(cfg).eval(), build(cfg).eval()
    load_weights(ours, files.released(state, ("thing",)), "released.pth")
    printed = capsys.readouterr().out
    assert printed.count("released.pth") == 1
    assert f"(official layout): {len(ours.state_dict()) - not_needed(ours)} loaded" in printed
    theirs.load_state_dict(as_mmdet_converts(state), strict=True)
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key
    image = torch.randn(1, 3, 64, 96)
    found, expected = (prediction(model, image) for model in (ours, theirs))
    assert expected
    for a, b in zip(found, expected, strict=True):
        assert len(b)
        assert torch.equal(torch.as_tensor(a), torch.as_tensor(b))


@torch.no_grad()
def prediction(model, image):
    """Boxes, scores, labels and masks, or logits."""
    if hasattr(model, "decode_head"):
        return [model.forward(image, mode="tensor")]
    size = tuple(image.shape[2:])
    meta = {"img_shape": size, "ori_shape": size, "scale_factor": (1.0, 1.0)}
    sample = DetDataSample(metainfo=meta)
    instances = model.predict(image, [sample])[0].pred_instances
    return [instances.bboxes, instances.scores, instances.labels, instances.masks]


def not_needed(model):
    """Number of entries of the state dict that are neither parameters nor statistics."""
    return sum(k.endswith(("_index", "num_batches_tracked")) for k in model.state_dict())
