"""A trained model that predicts on images in memory."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from numpy.typing import NDArray

from swin_dense import config_tree
from swin_dense.checkpoints import dataset_meta, load_checkpoint, weights_of
from swin_dense.config_tree import is_segmentation
from swin_dense.engine.config.prepare import prepare_prediction
from swin_dense.engine.config.pretrained import local_weights
from swin_dense.engine.images import UnreadableImageError, check_memory
from swin_dense.engine.paths import checkpoint_file
from swin_dense.engine.weights import check_scale, load_weights
from swin_dense.errors import UserError

_LOADS = ("LoadImageFromFile", "LoadAnnotations", "LoadPanopticAnnotations", "LoadProposals")


class Predictor:
    """A detector or segmentor with the test pipeline of its config.

    The arguments are those of :func:`swin_dense.engine.predict_files.predict`.

    Raises:
        UserError: config or checkpoint are missing, broken, or not of the same model.
    """

    def __init__(
        self,
        config: str | Path,
        checkpoint: str | Path,
        device: torch.device | str = "cpu",
        cfg_options: Mapping[str, Any] | None = None,
    ) -> None:
        checkpoint = checkpoint_file(checkpoint)
        content = load_checkpoint(local_weights(checkpoint, otherwise=""))
        meta = dataset_meta(content)
        masks = any("mask_head." in name for name in weights_of(content))
        self.cfg = prepare_prediction(config, cfg_options, meta.get("classes"), masks)
        self.is_segmentation = is_segmentation(self.cfg)
        with self._scope():
            self.model = revert_sync_batchnorm(MODELS.build(self.cfg.model))
            self._pipeline = Compose(_image_pipeline(self.cfg, str(config)))
        load_weights(self.model, content, str(checkpoint))
        check_scale(self.cfg, content, str(checkpoint))
        self.model.to(device).eval()
        self.meta = meta or _config_meta(self.cfg)

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names: those that the checkpoint was trained on, else the config's."""
        return tuple(self.meta.get("classes") or ())

    def predict(self, images: Sequence[NDArray[np.uint8]]) -> list[Any]:
        """Predicts on images of any sizes, each (H, W, 3) BGR.

        Returns:
            A DetDataSample or SegDataSample for each, in pixels of the image as it was given.
        """
        return self.predict_prepared([self.prepare(image) for image in images])

    def prepare(self, image: NDArray[np.uint8]) -> dict[str, Any]:
        """What the config's pipeline makes of an image (H, W, 3) BGR.

        Raises:
            UnreadableImageError: nothing can be made of it, or this machine lacks the memory for a
                segmentor's scores: the system would end the process without a word.
        """
        height, width = image.shape[:2]
        on_cpu = next(self.model.parameters()).device.type == "cpu"  # a GPU has an error for it
        if self.is_segmentation and on_cpu:
            check_memory(height * width, len(self.classes))
        try:
            with self._scope():
                return self._pipeline(_loaded(image))  # type: ignore[return-value]
        except Exception as error:  # images of some pixels' width have none when resized
            reason = " ".join(str(error).split())
            raise UnreadableImageError(
                f"cannot be resized from {width} x {height}: {reason}"
            ) from error

    @torch.no_grad()
    def predict_prepared(self, packed: Sequence[dict[str, Any]]) -> list[Any]:
        """Predicts on what :meth:`prepare` returned; see :meth:`predict`."""
        samples: list[Any] = []
        # mmdet pads the images of a batch to one size, mmseg cannot.
        for _, group in groupby(packed, lambda p: self.is_segmentation and p["inputs"].shape):
            batch = list(group)
            data = {key: [item[key] for item in batch] for key in ("inputs", "data_samples")}
            with self._scope():
                samples += self.model.test_step(data)  # type: ignore[operator]
        return samples

    def _scope(self) -> AbstractContextManager[None]:
        """The config's registries, for what is built meanwhile; other models may have others."""
        return DefaultScope.overwrite_default_scope(self.cfg.get("default_scope", "mmdet"))


def _loaded(image: NDArray[np.uint8]) -> dict[str, Any]:
    """What the pipeline's image loading would have produced."""
    size = image.shape[:2]
    return {"img": image, "img_id": 0, "img_path": "", "img_shape": size, "ori_shape": size}


def _image_pipeline(cfg: Config, path: str) -> list[dict]:
    """The test pipeline without what it reads from files."""
    for split in ("test", "val"):
        for dataset in config_tree.split_datasets(cfg, split):
            steps = dataset["pipeline"]
            return [step for step in steps if str(step["type"]).rpartition(".")[2] not in _LOADS]
    raise UserError(f"{path} has no test_dataloader, whose pipeline prepares the images")


def _config_meta(cfg: Config) -> dict[str, Any]:
    for split in ("test", "val", "train"):
        for dataset in config_tree.split_datasets(cfg, split):
            defaults = getattr(config_tree.dataset_class(cfg, dataset), "METAINFO", {})
            classes = config_tree.class_names(cfg, dataset)
            return {**defaults, **(dataset.get("metainfo") or {}), "classes": classes}
    return {}
