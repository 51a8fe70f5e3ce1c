"""The leaves of ``configs/``, as they are and with few channels."""

import copy
import functools
import re
from pathlib import Path
from typing import Any

from mmengine import Config

from swin_dense.backbones.swin_args import ARCHS
from swin_dense.config_tree import mappings

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SIDE = 64  # pixels of the images that reduced models are for
SHARE = 8  # factor by which channels are reduced


def load(name: str) -> Config:
    """A copy of the config, for building writes into a config."""
    return copy.deepcopy(_read(name))


@functools.cache
def _read(name: str) -> Config:
    return Config.fromfile(CONFIGS / f"{name}.py")


def reduced(cfg: Config) -> Config:
    """The same model with few channels, blocks and proposals, without pretrained weights."""
    model = cfg.model.get("detector", cfg.model)
    shorten(model.backbone)
    head = model.get("bbox_head", {})
    if "RepPoints" in head.get("type", ""):
        head.update(in_channels=256, feat_channels=256, point_feat_channels=256)
        head.get("mask_head", {}).update(in_channels=256)
    model.backbone.init_cfg = None
    if model.get("pretrained"):
        model.pretrained = None
    for node in mappings(cfg.model):
        for key, value in node.items():
            if re.search(r"(channels?|embed_dims)$", key):
                node[key] = narrowed(value)
        node.update({key: few for key, few in FEW.items() if node.get(key)})
        if "num" in (node.get("sampler") or {}):
            node["sampler"]["num"] = 8
    if model.data_preprocessor.get("size"):
        model.data_preprocessor.size = (SIDE, SIDE)
    return cfg


# No score threshold: all classes of an untrained head have similar scores.
FEW = {"nms_pre": 50, "max_per_img": 10, "num_proposals": 10, "score_thr": 1e-6}


def narrowed(value: Any) -> Any:
    """Divide numbers of channels by SHARE, except small ones and those of images."""
    if isinstance(value, (list, tuple)):
        return [narrowed(entry) for entry in value]
    return value // SHARE if isinstance(value, int) and value > SHARE else value


def shorten(backbone: Any) -> None:
    """Use one block per stage where the type allows it, and set default sizes explicitly."""
    kind = backbone.type.split(".")[-1]
    if kind == "SwinTransformer":
        channels, _depths, heads = ARCHS[backbone.pop("arch", None) or "tiny"]
        sizes = {"embed_dims": channels, "num_heads": heads, **backbone}
        backbone.update({**sizes, "depths": (2, 1, 1, 1)})
    elif kind == "SwinTransformerV2":
        arch = {"t": (96, (3, 6, 12, 24)), "b": (128, (4, 8, 16, 32)), "l": (192, (6, 12, 24, 48))}
        channels, heads = arch[backbone.arch[0]]
        sizes = {"embed_dims": channels, "depths": (2, 1, 1, 1), "num_heads": heads}
        backbone.update(arch=sizes, window_size=(8, 4, 8, 4))
    elif kind == "DeiT":
        backbone.update(embed_dims=384, depth=1)
    elif kind == "VisionTransformer":
        backbone.update(num_layers=4, out_indices=(0, 1, 2, 3))
    elif kind == "HRNet":
        for stage in backbone.extra.values():
            stage.update(num_modules=1, num_blocks=[1] * len(stage.num_blocks))
    else:  # ResNets: 50 is the smallest with bottleneck channels
        groups = {"groups": backbone.groups // SHARE} if "groups" in backbone else {}
        backbone.update(depth=50, base_channels=64, **groups)
