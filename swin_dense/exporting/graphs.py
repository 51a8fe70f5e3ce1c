"""The parts of a model that can be exported, from the pixels of images on."""

import copy
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor, nn
from torch.nn import functional as F

from swin_dense.config_tree import is_segmentation
from swin_dense.errors import UserError
from swin_dense.exporting.pooling import replace_pooling

PARTS = ("model", "backbone")


class Normalisation(nn.Module):
    """What a config's ``data_preprocessor`` makes of pixels: RGB, 0 to 255, ``(B, 3, H, W)``."""

    mean: Tensor
    std: Tensor

    def __init__(self, settings: Any) -> None:
        super().__init__()
        # The pipelines read BGR images.
        self.to_bgr = not settings.get("bgr_to_rgb", False)
        channels = len(settings.get("mean") or (0, 0, 0))
        for name, default in (("mean", 0.0), ("std", 1.0)):
            values = torch.tensor(settings.get(name) or [default] * channels)
            self.register_buffer(name, values.float().view(1, -1, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """``(B, 3, H, W)`` to the same, normalised, in the model's order of channels."""
        image = image.flip(1) if self.to_bgr else image
        return (image - self.mean) / self.std


class BackboneGraph(nn.Module):
    """Images to the backbone's feature maps."""

    outputs = "map"

    def __init__(self, cfg: Config, model: Any) -> None:
        super().__init__()
        self.normalisation = Normalisation(_preprocessor(cfg))
        self.backbone = model.backbone

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """``(B, 3, H, W)`` to one ``(B, C, h, w)`` for each of ``out_indices``."""
        return tuple(self.backbone(self.normalisation(image)))

    reference = forward


class SegmentorGraph(nn.Module):
    """Images to scores, or classes, of all pixels."""

    def __init__(self, cfg: Config, model: Any, labels: bool) -> None:
        super().__init__()
        self.normalisation = Normalisation(_preprocessor(cfg))
        self.original = [model]  # in a list: no part of what is exported
        self.segmentor = copy.deepcopy(model)
        replace_pooling(self.segmentor)
        self.labels = labels
        self.outputs = "label_map" if labels else "logits"

    def forward(self, image: Tensor) -> Tensor:
        """``(B, 3, H, W)`` to logits ``(B, classes, H, W)``, or labels ``(B, H, W)`` int64."""
        segmentor = self.segmentor
        features = segmentor.extract_feat(self.normalisation(image))
        heads = segmentor.decode_head
        if isinstance(heads, nn.ModuleList):  # each refines what the one before found
            logits = heads[0](features)
            for head in heads[1:]:
                logits = head(features, logits)
        else:
            logits = heads(features)
        logits = F.interpolate(
            logits, image.shape[2:], mode="bilinear", align_corners=segmentor.align_corners
        )
        if not self.labels:
            return logits
        return (logits[:, 0] > 0.5).long() if logits.shape[1] == 1 else logits.argmax(1)

    def reference(self, image: Tensor) -> Tensor:
        """The logits by mmseg's own inference, of the model as it was."""
        size = tuple(image.shape[2:])
        metas = [{"img_shape": size, "ori_shape": size, "pad_shape": size}] * len(image)
        (model,) = self.original
        return model.encode_decode(self.normalisation(image), metas)


def make_graph(cfg: Config, model: Any, part: str, labels: bool = True) -> Any:
    """A part of a model, in evaluation mode, with the ``reference`` that it has to agree with.

    Args:
        cfg: the model's config.
        model: mmdet's or mmseg's, with its weights.
        part: one of :data:`PARTS`.
        labels: whether a segmentor gives labels, in place of logits.

    Raises:
        UserError: this part of such a model cannot be exported.
    """
    if not hasattr(model, "backbone"):  # Soft Teacher has two models
        model = getattr(model, model.semi_test_cfg["predict_on"])
    if part == "backbone":
        return BackboneGraph(cfg, model).eval()
    if is_segmentation(cfg):
        if not hasattr(model, "decode_head"):
            raise UserError(f"a {type(model).__name__} is not exported whole: add --part backbone")
        return SegmentorGraph(cfg, model, labels).eval()
    raise UserError(
        f"detectors ({type(model).__name__}) are not exported whole: add --part backbone"
    )


def plain_backbone(cfg: Config) -> dict[str, Any]:
    """Options by which a config's backbone has neither CUDA graphs nor Triton kernels.

    Neither can be in an exported graph.
    """
    found = {}
    for path in ("model.backbone", "model.detector.backbone"):
        node = cfg
        for key in path.split("."):
            node = node.get(key) or {}
        for key, value in (("attn_impl", "auto"), ("cuda_graphs", 0)):
            if key in node:
                found[f"{path}.{key}"] = value
    return found


def _preprocessor(cfg: Config) -> Any:
    model = cfg.model
    inner = model.get("detector") or {}
    return inner.get("data_preprocessor") or model.get("data_preprocessor") or {}
