"""``--weights``: a whole detector or segmentor, from which a training starts."""

import difflib
import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from mmengine.config import Config

from swin_dense.checkpoints.loading import first
from swin_dense.checkpoints.released import MOBY_WEIGHTS, WEIGHTS
from swin_dense.engine.config.load import bases_of, read_config
from swin_dense.engine.config.pretrained import drop_pretrained
from swin_dense.engine.paths import checkpoint_file
from swin_dense.engine.terminal.console import notify_user
from swin_dense.errors import UserError
from swin_dense.packaged import CONFIGS

DATASETS = ("coco", "ade20k")
# What makes weights those of another model; windows and classes are fitted.
_SIZES = ("embed_dims", "depths", "arch", "depth")


def start_from(cfg: Config, weights: str) -> None:
    """Lets a training start from weights, in place of all that the config names.

    Args:
        cfg: the config; changed in place.
        weights: 'coco' or 'ade20k', for what was released for the config, or the nearest of those
            that it inherits from; the name of a config, ours or of mmdet or mmseg, of which weights
            were released; a file, a work dir, or a URL.

    Raises:
        UserError: there are no such weights.
    """
    location = _find(cfg, weights)
    drop_pretrained(cfg)
    cfg.load_from = location


def _find(cfg: Config, weights: str) -> str:
    if weights in DATASETS:
        name, url = _released_for(cfg, weights)
        notify_user(f"--weights {weights}: those released for {name}")
        return url
    if "://" in weights:
        return weights
    path = Path(weights).expanduser()
    if path.exists():
        return checkpoint_file(path)
    if named := released_by_name(weights):
        return named
    raise UserError(
        f"--weights {weights}: no such file, nor a name of released weights{_hint(weights)}"
    )


def _released_for(cfg: Config, dataset: str) -> tuple[str, str]:
    """The name of the nearest config, of those that one inherits from, with weights; their URL."""
    own, others = _architecture(cfg), []
    for path in bases_of(str(cfg.filename)):
        url = _url(path)
        if url is None or _architecture(read_config(path)) != own:
            continue
        if dataset in path.stem.lower():
            return path.stem, url
        others.append(next((one for one in DATASETS if one in path.stem.lower()), path.stem))
    if others:
        raise UserError(
            f"--weights {dataset}: the weights released for this model are of {others[0]}: give "
            f"--weights {others[0]}"
        )
    raise UserError(
        f"--weights {dataset}: none were released for {Path(str(cfg.filename)).stem} and what it "
        f"inherits from, with this backbone: name a file, or others{_hint(dataset)}"
    )


def _architecture(cfg: Config) -> dict[str, Any]:
    """The kind of a model, and the kind and size of its backbone."""
    model = cfg.get("model") or {}
    backbone = model.get("backbone") or {}
    kinds = {
        name: str(part.get("type")).rpartition(".")[2]
        for name, part in (("model", model), ("backbone", backbone))
    }
    return kinds | {key: _plain(backbone[key]) for key in _SIZES if key in backbone}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value


def released_by_name(name: str) -> str | None:
    """The URL of the weights of a config, by its name, for ours with ``moby_`` before it or not."""
    stem = name.removesuffix(".py")
    for key, url in _ours().items():
        if stem in (key, _without_dataset(key)):
            return url
    files = (path for folder in _zoos() for path in folder.glob("*/*.py") if path.stem == stem)
    return next(filter(None, map(_url, files)), None)


def _ours() -> dict[str, str]:
    return WEIGHTS | {f"moby_{config}": url for config, url in MOBY_WEIGHTS.items()}


def _without_dataset(name: str) -> str:
    return name.removesuffix("_coco").removesuffix("_ade20k")


def _zoos() -> Iterator[Path]:
    """The folders with the configs of mmdet and mmseg, those that are installed."""
    for package in ("mmdet", "mmseg"):
        spec = importlib.util.find_spec(package)
        for folder in (spec and spec.submodule_search_locations) or ():
            yield Path(folder, ".mim", "configs")


def _url(config: Path) -> str | None:
    """The weights that were released for a config file, by its place; None if there are none."""
    if config.resolve().parent == CONFIGS.resolve():
        return WEIGHTS.get(config.stem)
    for file in config.parent.glob("metafile.y*ml"):
        with file.open(encoding="utf-8") as text:
            content = yaml.safe_load(text)
        models = content.get("Models") or [] if isinstance(content, Mapping) else content or []
        for model in models:
            if Path(str(model.get("Config"))).name == config.name and model.get("Weights"):
                return str(model["Weights"])
    return None


def _hint(name: str) -> str:
    """Names of weights that are close to one, or of the same data set."""
    names = list(_ours())
    close = [] if name in DATASETS else difflib.get_close_matches(name, [*DATASETS, *names], n=3)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    known = [one for one in names if name in one] or [*DATASETS, *names]
    return f"; there are {first(known, 5)} (docs/weights.md)"
