"""Pretrained weights of a config: finding, downloading and dropping them."""

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from mmengine.runner import checkpoint

from swin_dense import config_tree
from swin_dense.checkpoints import cached_path, local_file
from swin_dense.engine.launch import on_first_process
from swin_dense.engine.terminal.console import download_bar, notify_user

_ALTERNATIVE = ", or add --from-scratch to train without pretrained weights"
# mmengine's names of weights, and its function that has the table of their URLs.
_MODEL_ZOOS = {
    "torchvision": "get_torchvision_models",
    "modelzoo": "get_torchvision_models",
    "open-mmlab": "get_external_models",
    "openmmlab": "get_external_models",
    "mmcls": "get_mmcls_models",
}


def drop_pretrained(cfg: Config) -> None:
    """Removes every request for pretrained weights; other initialisations stay."""
    for node in config_tree.mappings(cfg._cfg_dict.get("model")):
        init = node.get("init_cfg")
        if isinstance(init, (list, tuple)):
            node["init_cfg"] = [entry for entry in init if not _is_pretrained(entry)] or None
        elif _is_pretrained(init):
            node["init_cfg"] = None
        if isinstance(node.get("pretrained"), str):
            node["pretrained"] = None
    if cfg.get("load_from") is not None:
        cfg.load_from = None


def pretrained_files(cfg: Config) -> list[str]:
    """The URLs and paths of all pretrained weights that training would read."""
    found: list[str | None] = []
    for node in config_tree.mappings(cfg._cfg_dict.get("model")):
        init = node.get("init_cfg")
        entries = init if isinstance(init, (list, tuple)) else [init]
        found += [entry.get("checkpoint") for entry in entries if _is_pretrained(entry)]
        found += [node["pretrained"]] if isinstance(node.get("pretrained"), str) else []
    return [file for file in dict.fromkeys([*found, cfg.get("load_from")]) if file]


def ensure_pretrained(cfg: Config) -> None:
    """Downloads the pretrained weights that are not on this machine.

    The first process does the work. Weights from the web go where PyTorch keeps them
    (``torch.hub.get_dir()/checkpoints``), so that mmengine finds them there.

    Raises:
        UserError: a file is missing or cannot be downloaded.
    """
    whole = cfg.get("load_from")  # asked for, unlike what the config's backbone starts from
    files = {file: "" if file == whole else _ALTERNATIVE for file in pretrained_files(cfg)}
    on_first_process(lambda: [local_weights(*one) for one in files.items()])


def local_weights(location: str, otherwise: str = _ALTERNATIVE) -> str:
    """The local path of weights, downloaded first if they are on the web.

    Args:
        location: a path, an http(s) URL, or mmengine's ``torchvision://`` or ``open-mmlab://``.
            Other schemes are returned as they are, for mmengine to read.
        otherwise: an alternative for the user, at the end of the error message.

    Raises:
        UserError: there is no such file, or it cannot be downloaded.
    """
    scheme, _, name = location.partition("://")
    if scheme in _MODEL_ZOOS:
        location = getattr(checkpoint, _MODEL_ZOOS[scheme])().get(name, location)
    if "://" in location and not location.startswith(("http://", "https://")):
        return location
    if "://" not in location or cached_path(location).is_file():
        return str(local_file(location, otherwise))
    notify_user(f"downloading {location}")
    with download_bar() as on_progress:
        return str(local_file(location, otherwise, on_progress=on_progress))


def _is_pretrained(init: Any) -> bool:
    return isinstance(init, Mapping) and str(init.get("type")).endswith("Pretrained")
