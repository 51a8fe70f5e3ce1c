"""Table 4 of the paper: what shifting the windows and each position term contribute."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from swin_dense.analysis.counting import Counts, count_config
from swin_dense.engine.config.load import merge_options, read_config

TABLE = "table_4_ablation_swin_t"
_SHIFT, _TABLE, _ABSOLUTE, _PRODUCT = (
    "use_shift",
    "use_rel_pos_bias",
    "use_abs_pos_embed",
    "use_dot_product",
)
# Arguments of the backbone that differ from the default, by the table's name of the variant.
VARIANTS: Mapping[str, Mapping[str, bool]] = MappingProxyType(
    {
        "w/o shifting": {_SHIFT: False},
        "shifted windows": {},
        "no pos.": {_TABLE: False},
        "abs. pos.": {_TABLE: False, _ABSOLUTE: True},
        "abs.+rel. pos.": {_ABSOLUTE: True},
        "rel. pos. w/o app.": {_PRODUCT: False},
        "rel. pos.": {},
    }
)
# Box and mask AP on COCO, mIoU on ADE20K, as published.
PAPER: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {
        "w/o shifting": (47.7, 41.5, 43.3),
        "shifted windows": (50.5, 43.7, 46.1),
        "no pos.": (49.2, 42.6, 43.8),
        "abs. pos.": (49.0, 42.4, 43.2),
        "abs.+rel. pos.": (50.2, 43.4, 44.0),
        "rel. pos. w/o app.": (48.2, 41.9, 44.1),
        "rel. pos.": (50.5, 43.7, 46.1),
    }
)
METHODS = {"cascade_swin_t_coco": "Cascade Mask R-CNN", "upernet_swin_t_ade20k": "UperNet"}


@dataclass(frozen=True)
class Variant:
    """A variant of Table 4 on one of the two tasks, and what it costs."""

    name: str
    config: str
    counts: Counts

    @property
    def options(self) -> dict[str, bool]:
        """``--cfg-options`` that make the config this variant."""
        return backbone_options(self.name)

    @property
    def paper(self) -> dict[str, float]:
        """The published scores of this task, in percent."""
        box, mask, miou = PAPER[self.name]
        if METHODS[self.config] == "UperNet":
            return {"mIoU": miou}
        return {"box AP": box, "mask AP": mask}

    def as_json(self) -> dict[str, Any]:
        """The variant as ``--json`` writes it, with the keys of a row."""
        return {
            "row": self.config.rpartition("_")[0],
            "table": TABLE,
            "method": METHODS[self.config],
            "backbone": "Swin-T",
            "variant": self.name,
            "config": f"configs/{self.config}.py",
            "cfg_options": self.options,
            "crop": 512 if METHODS[self.config] == "UperNet" else None,
            "image_size": list(self.counts.image_size),
            "params_m": round(self.counts.params / 1e6, 2),
            "paper_params_m": None,
            "flops_g": round(self.counts.macs / 1e9, 1),
            "paper_flops_g": None,
            "paper_scores": self.paper,
        }


def backbone_options(variant: str) -> dict[str, bool]:
    """Dotted config keys and values of a variant."""
    return {f"model.backbone.{name}": value for name, value in VARIANTS[variant].items()}


def count_variants(configs: Path, methods: Iterable[str] = METHODS) -> Iterator[Variant]:
    """Counts every variant.

    Args:
        configs: the folder of the configs.
        methods: stems of configs, of :data:`METHODS`.
    """
    for config in methods:
        plain = read_config(configs / f"{config}.py")
        counted: dict[tuple[str, ...], Counts] = {}
        for name, options in VARIANTS.items():
            arguments = tuple(options)
            if arguments not in counted:
                cfg = copy.deepcopy(plain)
                merge_options(cfg, backbone_options(name))
                counted[arguments] = count_config(cfg)
            yield Variant(name, config, counted[arguments])
