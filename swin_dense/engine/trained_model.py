"""A trained model for use from Python: :func:`swin_dense.load`."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from swin_dense.engine.images import UnreadableImageError, pixels_of, read_image
from swin_dense.engine.launch import choose_device
from swin_dense.engine.paths import checkpoint_file
from swin_dense.engine.prediction import Prediction, from_sample
from swin_dense.engine.predictor import Predictor
from swin_dense.engine.terminal.console import quiet_terminal
from swin_dense.errors import UserError

AnyImage: TypeAlias = str | os.PathLike[str] | Image.Image | NDArray[np.uint8]
"""A file, an image of Pillow, or an array (H, W, 3) RGB of 8 bits."""


class TrainedModel:
    """A detector or segmentor with its weights and the test pipeline of its config.

    Args:
        config, checkpoint, device, cfg_options: as of :func:`swin_dense.load`.

    Attributes:
        model: mmdet's or mmseg's model, in evaluation mode.

    Raises:
        UserError: config or checkpoint are missing, broken, or not of the same model.
    """

    def __init__(
        self,
        config: str | os.PathLike[str],
        checkpoint: str | os.PathLike[str],
        device: str = "auto",
        cfg_options: Mapping[str, Any] | None = None,
    ) -> None:
        with quiet_terminal():
            file = checkpoint_file(os.fspath(checkpoint))
            where = choose_device(device)
            self._predictor = Predictor(os.fspath(config), file, where, cfg_options)
        self.model: nn.Module = self._predictor.model

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names: those that the checkpoint was trained on, else the config's."""
        return self._predictor.classes

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return next(self.model.parameters()).device

    @overload
    def predict(  # type: ignore[overload-overlap]  # a str is a sequence too, and means one file
        self, images: AnyImage, *, score_thr: float = ..., batch_size: int = ...
    ) -> Prediction: ...

    @overload
    def predict(
        self, images: Sequence[AnyImage], *, score_thr: float = ..., batch_size: int = ...
    ) -> list[Prediction]: ...

    def predict(
        self,
        images: AnyImage | Sequence[AnyImage],
        *,
        score_thr: float = 0.3,
        batch_size: int = 1,
    ) -> Prediction | list[Prediction]:
        """Predicts on an image, or on each of a list, of any sizes.

        Args:
            images: a file, an image of Pillow, or an array (H, W, 3) RGB of 8 bits; or a list of
                these. Files and Pillow's images are turned by their EXIF tag.
            score_thr: a detector's objects below this score are left out.
            batch_size: images that go through the model together. A detector pads those of a batch
                to one size, which can change the last digits.

        Raises:
            UserError: an image cannot be read or is of another kind.
        """
        if isinstance(images, str | os.PathLike | Image.Image | np.ndarray):
            return next(self._predict([images], score_thr, 1))
        if not isinstance(images, Sequence):
            raise UserError(
                f"{type(images).__name__} was given: images are files, images of Pillow, arrays "
                "(height, width, 3), or a list of these"
            )
        return list(self._predict(images, score_thr, max(batch_size, 1)))

    def features(self, image: AnyImage) -> tuple[Tensor, ...]:
        """The backbone's feature maps of an image, as the model's neck or head gets them.

        Returns:
            One of (1, C, h, w) for each of the backbone's ``out_indices``, finest first, on
            :attr:`device`. The image is resized, normalised and padded as the config's test
            pipeline and ``data_preprocessor`` do: h and w are for that size.

        Raises:
            UserError: the image cannot be read or is of another kind.
        """
        packed = self._prepare(_bgr(image), image)
        batch = {"inputs": [packed["inputs"]], "data_samples": [packed["data_samples"]]}
        inference: Any = self.model
        if not hasattr(inference, "backbone"):  # Soft Teacher has two models
            inference = getattr(inference, inference.semi_test_cfg["predict_on"])
        with torch.no_grad():
            inputs = inference.data_preprocessor(batch, False)["inputs"]
            return tuple(inference.backbone(inputs))

    def _predict(
        self, images: Sequence[AnyImage], score_thr: float, batch_size: int
    ) -> Iterator[Prediction]:
        for start in range(0, len(images), batch_size):
            given = images[start : start + batch_size]
            pixels = [_bgr(image) for image in given]
            packed = [self._prepare(*pair) for pair in zip(pixels, given, strict=True)]
            samples = self._predictor.predict_prepared(packed)
            for sample, image in zip(samples, pixels, strict=True):
                yield from_sample(sample, image, self._predictor.meta, score_thr)

    def _prepare(self, pixels: NDArray[np.uint8], given: AnyImage) -> dict[str, Any]:
        try:
            return self._predictor.prepare(pixels)
        except UnreadableImageError as error:
            raise UserError(f"{_name(given)}: {error}") from error


def _bgr(image: AnyImage) -> NDArray[np.uint8]:
    """The pixels of an image as OpenCV has them, (H, W, 3) BGR."""
    if isinstance(image, Image.Image):
        return pixels_of(image)
    if isinstance(image, str | os.PathLike):
        try:
            return read_image(Path(image))
        except UnreadableImageError as error:
            raise UserError(f"{image} cannot be read: {error}") from error
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise UserError(
            f"an image of shape {array.shape} and type {array.dtype} was given: it has to be "
            "(height, width, 3), RGB, of numpy.uint8; give several images as a list"
        )
    return np.ascontiguousarray(array[..., ::-1])


def _name(image: AnyImage) -> str:
    return str(image) if isinstance(image, str | os.PathLike) else "an image"
