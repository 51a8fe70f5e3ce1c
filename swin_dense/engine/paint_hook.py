"""Pictures of a test: ground truth on the left, prediction on the right."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from mmengine.hooks import Hook

from swin_dense.engine.drawing import paint_sample
from swin_dense.engine.images import UnreadableImage, read_image
from swin_dense.registry import HOOKS


@HOOKS.register_module()
class PaintHook(Hook):
    """Paints every image of a test, each process its share, under the image's name.

    Args:
        out_dir: folder of the pictures.
        score_thr: detections below this score are left out.
    """

    priority = "LOW"

    def __init__(self, out_dir: str, score_thr: float = 0.3) -> None:
        self.out_dir = Path(out_dir)
        self.score_thr = score_thr

    def after_test_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Paints the images of a batch."""
        meta = runner.test_dataloader.dataset.metainfo
        for sample in outputs or []:
            path = Path(sample.img_path)
            try:
                image = read_image(path)
            except UnreadableImage as error:
                runner.logger.warning(f"{path} is not painted: {error}")
                continue
            panels = [paint_sample(image, sample, meta, self.score_thr)]
            if "gt_sem_seg" in sample or "bboxes" in sample.get("gt_instances", ()):
                panels.insert(0, paint_sample(image, sample, meta, truth=True))
            self.out_dir.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(self.out_dir / f"{path.stem}.jpg"), np.hstack(panels))
