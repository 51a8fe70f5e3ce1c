"""What the log of a distributed training tells."""

from collections import OrderedDict
from statistics import fmean
from typing import Any

from mmengine.dist import all_gather_object, get_world_size
from mmengine.runner import LogProcessor as MMEngineLogProcessor


class LogProcessor(MMEngineLogProcessor):
    """mmengine's, which logs the mean of all processes' losses, not the first one's alone.

    The processes exchange numbers when a line is logged, in no other step.
    """

    def _collect_scalars(
        self, custom_cfg: list[dict], runner: Any, mode: str, reserve_prefix: bool = False
    ) -> dict:
        tag = super()._collect_scalars(custom_cfg, runner, mode, reserve_prefix)
        if mode != "train" or get_world_size() == 1:
            return tag
        own = {key: float(value) for key, value in tag.items() if "loss" in key or "acc" in key}
        everyone = all_gather_object(own)
        # A head may have a loss in some processes only.
        means = {key: fmean(one[key] for one in everyone if key in one) for key in own}
        return OrderedDict(tag | means)
