"""What a model found in one image."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from numpy.typing import NDArray
from PIL import Image

from swin_dense.engine.drawing import class_name, draw_sample
from swin_dense.engine.images import write_image
from swin_dense.errors import UserError


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """The objects that a detector found in an image, or a segmentor's label map of it.

    Attributes:
        image: (H, W, 3) RGB, the image that was predicted on.
        classes: the names of the model's classes.
        boxes: (n, 4) left, top, right, bottom in pixels of the image, the highest score first. A
            segmentor finds none: n is 0.
        labels: (n,) indices into ``classes``.
        scores: (n,) between 0 and 1.
        masks: (n, H, W) whether a pixel is of the object; None if the model predicts no masks.
        label_map: (H, W) an index into ``classes`` for each pixel; None for a detector.
        palette: an RGB colour for each class, if the data set has them.
    """

    image: NDArray[np.uint8]
    classes: tuple[str, ...]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]
    masks: NDArray[np.bool_] | None = None
    label_map: NDArray[np.integer] | None = None
    palette: Sequence[Sequence[int]] | None = None

    @property
    def names(self) -> list[str]:
        """The class name of each object; of a label map, those of the classes in it."""
        labels = self.labels if self.label_map is None else np.unique(self.label_map)
        return [class_name(self.classes, label) for label in labels.tolist()]

    def draw(
        self, path: str | os.PathLike[str] | None = None, score_thr: float = 0.0
    ) -> Image.Image:
        """The image with boxes, masks and names, or with the classes in colours.

        Images of up to 192 pixels are enlarged by an integer factor.

        Args:
            path: a file to save the picture to as well, of the kind that its suffix names.
            score_thr: objects below this score are not drawn.

        Raises:
            UserError: the suffix is that of no kind of picture.
        """
        drawn = draw_prediction(self, score_thr)
        if path is not None:
            if not cv2.haveImageWriter(str(path).lower()):
                raise UserError(f"{path} names no kind of picture: use the suffix .png or .jpg")
            write_image(Path(path), drawn)
        return Image.fromarray(np.ascontiguousarray(drawn[..., ::-1]))

    def __len__(self) -> int:
        return len(self.boxes)

    def __repr__(self) -> str:
        height, width = self.image.shape[:2]
        counts = Counter(self.names)
        found = ", ".join(
            name if self.label_map is not None else f"{count} {name}"
            for name, count in counts.most_common()
        )
        return f"<Prediction of {width} x {height} pixels: {found or 'nothing'}>"


def from_sample(
    sample: Any, image: NDArray[np.uint8], meta: Mapping[str, Any], score_thr: float
) -> Prediction:
    """The prediction in a data sample of mmdet or mmseg.

    Args:
        sample: with ``pred_sem_seg`` or ``pred_instances``.
        image: (H, W, 3) BGR, that was predicted on.
        meta: the model's ``classes`` and, if its data set has one, ``palette``.
        score_thr: objects below this score are left out.
    """
    classes, palette = tuple(meta.get("classes") or ()), meta.get("palette")
    palette = None if isinstance(palette, str) else palette  # 'random', in mmdet
    rgb = np.ascontiguousarray(image[..., ::-1])
    if "pred_sem_seg" in sample:
        depth = np.uint8 if len(classes) <= 256 else np.uint16
        label_map = sample.pred_sem_seg.data.squeeze(0).cpu().numpy().astype(depth)
        nothing = np.zeros(0, np.int64), np.zeros(0, np.float32)
        return Prediction(
            rgb, classes, np.zeros((0, 4), np.float32), *nothing, None, label_map, palette
        )
    found = sample.pred_instances
    found = found[found.scores >= score_thr].cpu()
    found = found[found.scores.argsort(descending=True, stable=True)]
    masks = found.masks.numpy().astype(bool, copy=False) if "masks" in found else None
    return Prediction(
        rgb,
        classes,
        found.bboxes.float().numpy(),
        found.labels.numpy().astype(np.int64),
        found.scores.float().numpy(),
        masks,
        palette=palette,
    )


def draw_prediction(prediction: Prediction, score_thr: float = 0.0) -> NDArray[np.uint8]:
    """The picture that :meth:`Prediction.draw` makes, (H, W, 3) BGR."""
    sample = BaseDataElement()
    if prediction.label_map is not None:
        labels = torch.from_numpy(prediction.label_map.astype(np.int64))
        sample.pred_sem_seg = PixelData(data=labels[None])
    else:
        names = ("labels", "scores", "masks")
        parts = {name: getattr(prediction, name) for name in names}
        arrays = {"bboxes": prediction.boxes} | {k: v for k, v in parts.items() if v is not None}
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        sample.pred_instances = InstanceData(**tensors)
    image = np.ascontiguousarray(prediction.image[..., ::-1])
    meta = {"classes": prediction.classes, "palette": prediction.palette}
    return draw_sample(image, sample, meta, score_thr)
