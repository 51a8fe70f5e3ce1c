"""Images a second of a config's model, one image at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from swin_dense.checkpoints import load_checkpoint, local_file
from swin_dense.engine.config.load import is_segmentation, load_config
from swin_dense.engine.weights import load_weights


def frames_per_second(
    config: str | Path,
    image_size: tuple[int, int],
    device: torch.device,
    checkpoint: str | Path | None = None,
    seconds: float = 10.0,
) -> float:
    """Times predictions in float32, post-processing included, and takes the median.

    The image is noise: with trained weights or without, hardly anything is found in it, so a
    detector has no masks to paste.

    Args:
        config: the config file.
        image_size: height and width in pixels.
        device: where the model runs.
        checkpoint: weights; without them they are random.
        seconds: how long to measure at least, after a warm-up.

    Raises:
        UserError: config or checkpoint are missing or do not fit each other.
    """
    from torch.utils.benchmark import Timer  # warns of missing GPUs when it is imported

    cfg = load_config(config, from_scratch=True)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model: nn.Module = revert_sync_batchnorm(MODELS.build(cfg.model))
        if checkpoint is not None:
            load_weights(model, load_checkpoint(local_file(str(checkpoint))), str(checkpoint))
        model.to(device).eval()
        step = Timer(
            "model.test_step(batch())",
            globals={"model": model, "batch": lambda: _batch(cfg, image_size)},
        )
        with torch.inference_mode():
            return 1 / step.blocked_autorange(min_run_time=seconds).median


def _batch(cfg: Config, image_size: tuple[int, int]) -> dict[str, Any]:
    """One image and what the test pipeline would say of it; predictions are written into it."""
    if is_segmentation(cfg):
        from mmseg.structures import SegDataSample as Sample
    else:
        from mmdet.structures import DetDataSample as Sample
    facts = {"img_shape": image_size, "ori_shape": image_size, "scale_factor": (1.0, 1.0)}
    image = torch.randint(256, (3, *image_size), dtype=torch.uint8)
    return {"inputs": [image], "data_samples": [Sample(metainfo=facts)]}
