"""A trained model that predicts on images in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from numpy.typing import NDArray

from swin_dense import config_tree
from swin_dense.checkpoints import load_checkpoint
from swin_dense.engine.config.load import is_segmentation, load_config
from swin_dense.engine.config.pretrained import drop_pretrained, local_weights
from swin_dense.engine.weights import load_weights
from swin_dense.errors import UserError

_LOADS = ("LoadImageFromFile", "LoadAnnotations", "LoadPanopticAnnotations", "LoadProposals")


class Predictor:
    """A detector or segmentor with the test pipeline of its config.

    Args:
        config: the config file.
        checkpoint: weights of the config's model; a path or a URL.
        device: where the model goes.
        cfg_options: dotted config keys and their new values.

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
        content = load_checkpoint(local_weights(str(checkpoint), otherwise=""))
        meta = _dataset_meta(content)
        self.cfg = load_config(config, cfg_options, classes=meta.get("classes"))
        self.is_segmentation = is_segmentation(self.cfg)
        self.model = _build_model(self.cfg, str(config))
        load_weights(self.model, content, str(checkpoint))
        self.model.to(device).eval()
        self.meta = meta or _config_meta(self.cfg)
        self._pipeline = Compose(_image_pipeline(self.cfg, str(config)))

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names: those that the checkpoint was trained on, else the config's."""
        return tuple(self.meta.get("classes") or ())

    @torch.no_grad()
    def predict(self, images: Sequence[NDArray[np.uint8]]) -> list[Any]:
        """Predicts on images of any sizes.

        Args:
            images: (H, W, 3) BGR, each.

        Returns:
            A DetDataSample or SegDataSample for each, in pixels of the image as it was given.
        """
        packed = [self._pipeline(_as_read(image, i)) for i, image in enumerate(images)]
        samples: list[Any] = []
        for batch in self._batches(packed):
            samples += self.model.test_step(  # type: ignore[operator]
                {
                    "inputs": [item["inputs"] for item in batch],
                    "data_samples": [item["data_samples"] for item in batch],
                }
            )
        return samples

    def _batches(self, packed: list[dict]) -> list[list[dict]]:
        """What goes through the model together: mmseg cannot mix sizes, mmdet pads them."""
        batches: list[list[dict]] = []
        for item in packed:
            last = batches[-1] if batches else None
            fits = last is not None and (
                not self.is_segmentation or last[-1]["inputs"].shape == item["inputs"].shape
            )
            if last is not None and fits:
                last.append(item)
            else:
                batches.append([item])
        return batches


def _as_read(image: NDArray[np.uint8], index: int) -> dict[str, Any]:
    """What the pipeline's image loading would have produced."""
    size = image.shape[:2]
    return {"img": image, "img_id": index, "img_path": "", "img_shape": size, "ori_shape": size}


def _build_model(cfg: Config, path: str) -> torch.nn.Module:
    if not cfg.get("model"):
        raise UserError(f"{path} describes no model")
    drop_pretrained(cfg)
    init_default_scope(cfg.get("default_scope", "mmdet"))
    if cfg.get("data_preprocessor") is not None:
        cfg.model.setdefault("data_preprocessor", cfg.data_preprocessor)
    return revert_sync_batchnorm(MODELS.build(cfg.model))


def _image_pipeline(cfg: Config, path: str) -> list[dict]:
    """The test pipeline without what it reads from files."""
    datasets = list(config_tree.split_datasets(cfg, "test")) or list(
        config_tree.split_datasets(cfg, "val")
    )
    if not datasets:
        raise UserError(f"{path} has no test_dataloader, whose pipeline prepares the images")
    return [
        step
        for step in datasets[0]["pipeline"]
        if str(step["type"]).rpartition(".")[2] not in _LOADS
    ]


def _dataset_meta(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Class names and palette as mmengine, or before it mmdet 2 and mmseg 0, wrote them."""
    meta = checkpoint.get("meta") or {}
    found = meta.get("dataset_meta") or {
        key: meta[key] for key in ("CLASSES", "PALETTE") if meta.get(key)
    }
    return {key.lower(): value for key, value in found.items()}


def _config_meta(cfg: Config) -> dict[str, Any]:
    for split in ("test", "val", "train"):
        for dataset in config_tree.split_datasets(cfg, split):
            kind = config_tree.dataset_class(cfg, dataset)
            meta = dict(getattr(kind, "METAINFO", {}))
            meta.update(dataset.get("metainfo") or {})
            meta["classes"] = config_tree.class_names(cfg, dataset)
            return meta
    return {}
