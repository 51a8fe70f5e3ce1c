"""Our configs beside those that the authors of Swin published, key by key, as a document.

``official_recipes.json`` has the values of the official configs under the keys that mmdet 3 and
mmsegmentation 1 have for them. A key that only one side has is compared with the default of the
class that takes it.
"""

import inspect
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from swin_dense.backbones.swin_args import ARCHS
from swin_dense.engine.config.prepare import load_config
from swin_dense.engine.terminal.tables import markdown_table

_OFFICIAL = Path(__file__).with_name("official_recipes.json")
_ALSO_COMPARED = {
    "train_cfg": ("max_epochs", "max_iters"),
    "val_evaluator": ("metric", "iou_metrics"),
}
_ABSENT = "-"
_FIXED = "built into our head, with that value"
_ONE_VALUE = "mmdet 3 removed the key: it does what that value meant"
# Why a key, or those of a pattern, differ.
_REASONS = {
    "model.backbone.init_cfg.*": "theirs is given on the command line, as `model.pretrained`",
    "model.data_preprocessor.type": "mmdet 3 and mmsegmentation 1 normalise and pad in the model",
    "model.data_preprocessor.pad_mask": "masks are padded as the images are, by their pipeline too",
    "model.*.nms_across_levels": _ONE_VALUE,
    "model.*.nms_post": "mmdet 3 removed the key: `max_per_img`, of the same value, remains",
    "model.type": "mmdet's `RepPointsDetector` does the same with our head",
    "model.bbox_head.loss_*.type": "the same loss under the name that it has here",
    "model.bbox_head.mask_head.type": "our implementation of it",
    "model.bbox_head.mask_head.branch_cfg.*": "of a loss that they turn off",
    "model.bbox_head.mask_head.head_cfg.*": _FIXED,
    "model.bbox_head.*norm_cfg.*": "the default of our head, with that value",
    "model.bbox_head.*": _FIXED,
    "model.neck.norm_cfg.requires_grad": "the default of norm layers",
    "model.neck.*": "built into our neck, with that value",
    "model.train_cfg.*": _FIXED,
    "model.test_cfg.min_bbox_size": "0 removes no box",
    "model.test_cfg.mask_thr_binary": "theirs is in the code, with that value",
    "train_dataloader.dataset.LoadRPDV2Annotations": "our head draws the corner and object maps",
    "test_dataloader.dataset.pipeline.*": "for evaluation: mmdet 3 and mmsegmentation 1 get the "
    "ground truth from the pipeline",
}
_UNPUBLISHED = (
    (
        "`upernet_swin_{b,l}_ade20k`",
        "crop 640, ImageNet-22K, the paper's schedule",
        "the rest as in the official configs with crop 512",
    ),
    (
        "`atss_*`, `sparse_rcnn_*`, `reppoints_v2_r50_coco`, `cascade_{r50,x101,deit}_*`",
        "the paper's 3x recipe, with the head of the method",
        "mmdet's config of the method, with that recipe",
    ),
    (
        "`htc_pp_*`",
        "InstaBoost, short sides 400 to 1400, 6x (Swin-L: a 3x model was released), soft-NMS, a "
        "global self-attention layer, ImageNet-22K, tests at one and at several scales",
        "InstaBoost's settings: those of mmdet's configs. Soft-NMS (`iou_threshold` 0.5, "
        "`min_score` 0.001) and test scales, (1600, 1400), or (1600, 1000), (1600, 1400), "
        "(1800, 1200), (1800, 1600) with flips: those of HTC in "
        "[CBNetV2](https://arxiv.org/abs/2107.00420), which follows HTC++. Stochastic depth 0.2",
    ),
    (
        "`htc_pp_*x101_64x4d_coco`",
        "the size, 155 M and 1033 G",
        "the form of the global layer: queries, keys and values of the last map, added to it",
    ),
    ("other segmentors of Table 3", "scores and sizes", "mmsegmentation's configs"),
)
_DOCUMENT = """# Recipes beside the official ones

Generated, not edited: `{command}`.

The authors published these configs of Swin rows, for mmdet 2 and mmsegmentation 0. Each is compared
with ours key by key: the whole model with its losses and test settings, optimizer, schedule,
precision, batch and pipelines. The official values, under the keys of mmdet 3 and mmsegmentation 1,
are in `swin_dense/analysis/official_recipes.json`; a test fails when a difference has no reason.

{overview}
All use AdamW with betas 0.9 and 0.999, without weight decay for norms and position terms, window 7,
and a linear warm-up; detectors train in mixed precision. A class of ours stands for the official
one of the same name; the RoI extractor is one, which keeps boxes in float32 under AMP.

## Differences

No value that a model is trained or tested with differs. "-" is a key that a side does not have.

{differences}
## Rows without an official config

{unpublished}"""


@dataclass(frozen=True)
class Official:
    """An official config: where it is, and its values by dotted key."""

    repository: str
    commit: str
    file: str
    values: Mapping[str, Any]

    @property
    def url(self) -> str:
        """Its page."""
        return f"{self.repository}/blob/{self.commit}/{self.file}"


@dataclass(frozen=True)
class Difference:
    """A key whose value is another one here; ``reason`` is empty if none is known."""

    key: str
    theirs: Any
    ours: Any
    reason: str


@cache
def official_recipes() -> dict[str, Official]:
    """The official configs, by the stems of ours."""
    recipes = {}
    for group in json.loads(_OFFICIAL.read_text(encoding="utf-8")):
        for stem, config in group["configs"].items():
            values = {**group["values"], **config["values"]}
            recipes[stem] = Official(group["repository"], group["commit"], config["file"], values)
    return recipes


def differences(stem: str, configs: Path) -> list[Difference]:
    """Where our config and the official one differ, in the order of the keys."""
    cfg = load_config(configs / f"{stem}.py")
    theirs, ours = official_recipes()[stem].values, _our_values(cfg)
    found = []
    for key in sorted({*theirs, *ours}):
        default = None if key in theirs and key in ours else _default(cfg, key)
        before, after = (_plain(side.get(key, default)) for side in (theirs, ours))
        if before != after:
            found.append(Difference(key, before, after, _reason(key)))
    return found


def _reason(key: str) -> str:
    return next((why for pattern, why in _REASONS.items() if fnmatchcase(key, pattern)), "")


def _our_values(cfg: Config) -> dict[str, Any]:
    """The values of a config that make a recipe, by dotted key."""
    tree = cfg.to_dict()
    backbone = tree["model"]["backbone"]
    sizes = zip(("embed_dims", "depths", "num_heads"), ARCHS[backbone.pop("arch")], strict=True)
    tree["model"]["backbone"] = {**dict(sizes), **backbone}
    parts = {key: tree[key] for key in ("model", "optim_wrapper", "param_scheduler")}
    for key in ("train_dataloader", "test_dataloader"):
        parts[key] = {"dataset": {"pipeline": tree[key]["dataset"]["pipeline"]}}
    parts["train_dataloader"]["batch_size"] = tree["train_dataloader"]["batch_size"]
    for key, names in _ALSO_COMPARED.items():
        parts[key] = {name: tree[key][name] for name in names if name in tree[key]}
    if isinstance(metric := parts["val_evaluator"].get("metric"), str):
        parts["val_evaluator"]["metric"] = [metric]
    return dict(_flat(parts))


def _flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values; lists of dictionaries have their indices as keys."""
    if isinstance(node, (list, tuple)) and any(isinstance(v, (dict, list)) for v in node):
        node = dict(enumerate(node)) if _holds_mappings(node) else node
    if isinstance(node, dict) and node:
        for key, value in node.items():
            if key != "_scope_":
                yield from _flat(value, f"{prefix}{key}.")
    else:
        yield prefix.removesuffix("."), node


def _holds_mappings(node: Any) -> bool:
    if isinstance(node, (list, tuple)):
        return any(_holds_mappings(value) for value in node)
    return isinstance(node, dict)


def _default(cfg: Config, key: str) -> Any:
    """What the class that takes a key does without it; None if it has no such argument."""
    node: Any = cfg.to_dict()
    *parents, name = key.split(".")
    for parent in parents:
        node = node[int(parent)] if isinstance(node, (list, tuple)) else (node or {}).get(parent)
    if not isinstance(node, dict) or "type" not in node or parents[0] != "model":
        return None
    scope = cfg.default_scope
    with DefaultScope.overwrite_default_scope(scope):
        kind = MODELS.get(node["type"] if "." in node["type"] else f"{scope}.{node['type']}")
    for parent in getattr(kind, "__mro__", ()):
        parameter = inspect.signature(parent.__init__).parameters.get(name)
        if parameter is not None and parameter.default is not inspect.Parameter.empty:
            return parameter.default
    return None


def _plain(value: Any) -> Any:
    """Lists for tuples; of a type in a scope its name."""
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return value.removeprefix("swin_dense.") if isinstance(value, str) else value


def recipes_document(configs: Path, links: str, command: str) -> str:
    """The Markdown document.

    Args:
        configs: folder of our configs.
        links: the same, seen from the document.
        command: what generates the document.
    """
    overview: list[list[str]] = []
    rows: dict[tuple[str, ...], list[str]] = {}
    for stem, official in official_recipes().items():
        found = differences(stem, configs)
        link = f"[{stem}]({links}/{stem}.py)"
        same = len(official.values) - sum(d.key in official.values for d in found)
        overview.append([link, f"[official]({official.url})", *_summary(official), str(same)])
        for one in found:
            row = (one.key, _shown(one.theirs), _shown(one.ours), one.reason)
            rows.setdefault(row, []).append(stem)
    headings = ["config", "", "lr:", "weight decay:", "length:", "lr / 10 at", "drop path:"]
    table = markdown_table([*headings, "images per GPU:", "equal values:"], overview)
    many = [[_configs(stems), *map(_code, row[:3]), row[3]] for row, stems in rows.items()]
    other = markdown_table(["configs", "key", "official", "ours", "why"], many)
    parts = {"overview": table, "differences": other}
    parts["unpublished"] = markdown_table(["configs", "published", "our choice"], _UNPUBLISHED)
    return _DOCUMENT.format(command=command, **parts)


def _summary(official: Official) -> list[str]:
    values = official.values
    iterations = values.get("train_cfg.max_iters")
    length = (
        f"{iterations} iterations" if iterations else f"{values['train_cfg.max_epochs']} epochs"
    )
    steps = values.get("param_scheduler.1.milestones", ["linear to 0"])
    return [
        str(values["optim_wrapper.optimizer.lr"]),
        str(values["optim_wrapper.optimizer.weight_decay"]),
        length,
        ", ".join(map(str, steps)),
        str(values["model.backbone.drop_path_rate"]),
        str(values["train_dataloader.batch_size"]),
    ]


def _configs(stems: list[str]) -> str:
    names = [stem.removesuffix("_coco").removesuffix("_ade20k") for stem in stems]
    groups: dict[str, list[str]] = {"detectors": [], "segmentors": []}
    for stem in official_recipes():
        groups["detectors" if stem.endswith("_coco") else "segmentors"].append(stem)
    groups["all"] = [*official_recipes()]
    return next((name for name, members in groups.items() if members == stems), ", ".join(names))


def _shown(value: Any) -> str:
    return _ABSENT if value is None else str(value)


def _code(text: str) -> str:
    return text if text == _ABSENT else f"`{text}`"
