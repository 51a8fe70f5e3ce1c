"""The parts of a model that can be exported, from the pixels of images on."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor, nn
from torch.nn import functional as F

from swin_dense.config_tree import is_segmentation
from swin_dense.errors import UserError
from swin_dense.exporting.comparison import (
    error_of_labels,
    error_of_masks,
    largest_error,
    same_detections,
)
from swin_dense.exporting.detections import Detections
from swin_dense.exporting.operators import make_exportable

PARTS = ("model", "backbone")
Size = tuple[int, int]


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


class Graph(nn.Module):
    """What is exported, and what it has to agree with.

    Attributes:
        backbone: the part of it that decides which sizes can be traced.
        tolerance: the largest error that counts as rounding.
        compared: what was compared so far, in words, where that depends on the images.
    """

    backbone: Any
    # float32 has 1e-7, and sums are in another order.
    tolerance = 1e-4
    compared = ""

    def names(self, count: int) -> list[str]:
        """Of the ``count`` tensors that it gives."""
        raise NotImplementedError

    def error(self, found: Sequence[Tensor], image: Tensor) -> float:
        """By how much the graph's tensors are wrong for an image, of the largest value."""
        raise NotImplementedError


class BackboneGraph(Graph):
    """Images to the backbone's feature maps."""

    def __init__(self, cfg: Config, model: Any) -> None:
        super().__init__()
        self.normalisation = Normalisation(_preprocessor(cfg))
        self.backbone = model.backbone

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """``(B, 3, H, W)`` to one ``(B, C, h, w)`` for each of ``out_indices``."""
        return tuple(self.backbone(self.normalisation(image)))

    def names(self, count: int) -> list[str]:
        """``map0``, ``map1``, ..."""
        return [f"map{i}" for i in range(count)]

    def error(self, found: Sequence[Tensor], image: Tensor) -> float:
        """Of the map that is worst."""
        return max(largest_error(*maps) for maps in zip(found, self(image), strict=True))


class SegmentorGraph(Graph):
    """Images to scores, or classes, of all pixels."""

    def __init__(self, cfg: Config, model: Any, labels: bool) -> None:
        super().__init__()
        self.normalisation = Normalisation(_preprocessor(cfg))
        self.original = [model]  # in a list: no part of what is exported
        self.segmentor = copy.deepcopy(model)
        make_exportable(self.segmentor)
        self.labels = labels

    @property
    def backbone(self) -> Any:
        """The segmentor's."""
        return self.segmentor.backbone

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
        if isinstance(logits, tuple):  # DANet's parts, the fused one first
            logits = logits[0]
        logits = F.interpolate(
            logits, image.shape[2:], mode="bilinear", align_corners=segmentor.align_corners
        )
        if not self.labels:
            return logits
        return (logits[:, 0] > 0.5).long() if logits.shape[1] == 1 else logits.argmax(1)

    def names(self, count: int) -> list[str]:
        """One."""
        return ["label_map" if self.labels else "logits"]

    def error(self, found: Sequence[Tensor], image: Tensor) -> float:
        """From mmseg's own inference of the model as it was."""
        size = tuple(image.shape[2:])
        metas = [{"img_shape": size, "ori_shape": size, "pad_shape": size}] * len(image)
        logits = self.original[0].encode_decode(self.normalisation(image), metas)
        return (error_of_labels if self.labels else largest_error)(found[0], logits)


class DetectorGraph(Graph):
    """Images to a fixed number of detections of each, see :class:`~.detections.Detections`."""

    tolerance = 1e-3  # stages that refine boxes one after the other add up rounding

    def __init__(self, cfg: Config, model: Any) -> None:
        from swin_dense.exporting.detectors import detector_head

        super().__init__()
        settings = _preprocessor(cfg)
        self.normalisation = Normalisation(settings)
        self.divisor = settings.get("pad_size_divisor", 1)
        self.original = [model]  # in a list: no part of what is exported
        self.detector = copy.deepcopy(model)
        make_exportable(self.detector)
        self.head = detector_head(self.detector)
        self._detections = 0
        self.compared = "but no box was compared, as none was found in images of noise"

    @property
    def backbone(self) -> Any:
        """The detector's."""
        return self.detector.backbone

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """``(B, 3, H, W)`` to boxes, scores, labels, and masks if the model has them."""
        height, width = image.shape[2:]
        features = self.detector.extract_feat(self._inputs(image))
        return tuple(x for x in self.head(features, (height, width)) if x is not None)

    def _inputs(self, image: Tensor) -> Tensor:
        """Normalised and padded as in training."""
        height, width = (-size % self.divisor for size in image.shape[2:])
        return F.pad(self.normalisation(image), (0, width, 0, height))

    def names(self, count: int) -> list[str]:
        """Of detections."""
        return list(Detections._fields[:count])

    def error(self, found: Sequence[Tensor], image: Tensor) -> float:
        """From mmdet's own inference of the model as it was."""
        from mmdet.structures import DetDataSample

        inputs, (height, width) = self._inputs(image), image.shape[2:]
        size = (height, width)
        padded = tuple(inputs.shape[2:])
        meta: dict[str, Any] = {"img_shape": size, "ori_shape": size, "scale_factor": (1.0, 1.0)}
        meta |= {"pad_shape": padded, "batch_input_shape": padded}
        samples = [DetDataSample(metainfo=meta) for _ in inputs]
        samples = self.original[0].predict(inputs, samples, rescale=False)
        results = zip(zip(*found, strict=True), samples, strict=True)
        return max(self._image_error(ours, x.pred_instances, size) for ours, x in results)

    def _image_error(self, found: Sequence[Tensor], expected: Any, size: Size) -> float:
        boxes, scores, labels, *masks = (x[found[1] > 0] for x in found)
        theirs = (expected.bboxes, expected.scores, expected.labels)
        first, second, error = same_detections((boxes, scores, labels), theirs, max(size))
        if len(first):
            self._detections += len(first)
            self.compared = f"{self._detections} detections"
        if not masks or not len(first):
            return error
        # In mmdet's boxes: within a box of less than a pixel, rounding moves a mask by much.
        pasted = self.head.paste(masks[0][first], expected.bboxes[second], size)
        return max(error, error_of_masks(pasted, expected.masks[second], self.head.threshold))


def make_graph(cfg: Config, model: Any, part: str, labels: bool = True) -> Any:
    """A part of a model, in evaluation mode, which can tell how far others are from it.

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
    return DetectorGraph(cfg, model).eval()


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
