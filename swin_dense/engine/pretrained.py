"""Pretrained weights that a config asks for: finding, fetching and leaving them out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from mmengine.config import Config

from swin_dense.engine.distributed import on_first_process
from swin_dense.engine.terminal import say
from swin_dense.errors import UserError

_WEB = ("http://", "https://")
_OR_WITHOUT = ", or add --from-scratch to train without pretrained weights"


def drop_pretrained(cfg: Config) -> None:
    """Removes every request for pretrained weights; other initialisations stay."""
    for node in _mappings(cfg._cfg_dict.get("model")):
        if node.get("init_cfg") is not None:
            node["init_cfg"] = _without_pretrained(node["init_cfg"])
        if isinstance(node.get("pretrained"), str):
            node["pretrained"] = None
    if cfg.get("load_from") is not None:
        cfg.load_from = None


def pretrained_files(cfg: Config) -> list[str]:
    """The URLs and paths of all pretrained weights that training would read."""
    found: list[str] = []
    for node in _mappings(cfg._cfg_dict.get("model")):
        init = node.get("init_cfg")
        entries = init if isinstance(init, (list, tuple)) else [init]
        found += [e["checkpoint"] for e in entries if _is_pretrained(e) and e.get("checkpoint")]
        if isinstance(node.get("pretrained"), str):
            found.append(node["pretrained"])
    if cfg.get("load_from"):
        found.append(cfg.load_from)
    return list(dict.fromkeys(found))


def ensure_pretrained(cfg: Config) -> None:
    """Makes sure that the pretrained weights are at hand, downloading them when need be.

    The first process does the work. Weights from the web go where PyTorch keeps them
    (``torch.hub.get_dir()/checkpoints``), so that mmengine finds them there.

    Raises:
        UserError: a file is missing or cannot be downloaded; the message says what to put where.
    """
    files = pretrained_files(cfg)
    on_first_process(lambda: [local_weights(file) for file in files])


def local_weights(location: str, otherwise: str = _OR_WITHOUT) -> str:
    """The local path of weights, downloaded first if they are on the web.

    Args:
        location: a path, an http(s) URL, or mmengine's ``torchvision://`` or ``open-mmlab://``.
            Other schemes are returned as they are, for mmengine to read.
        otherwise: what else the user can do, for the error message.

    Raises:
        UserError: there is no such file, or it cannot be downloaded.
    """
    url = _web_address(location)
    if url.startswith(_WEB):
        path = cached_path(url)
        if not path.is_file():
            _download(url, path, otherwise)
        return str(path)
    if "://" not in url and not os.path.isfile(os.path.expanduser(url)):
        raise UserError(f"weights {url} are missing: put the file there{otherwise}")
    return url


def cached_path(url: str) -> Path:
    """Where PyTorch and mmengine look for a downloaded file."""
    return Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(urlparse(url).path)


def _download(url: str, path: Path, otherwise: str) -> None:
    say(f"downloading {url}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), progress=False)
    except Exception as error:  # urllib, ssl, sockets and disks all have their own
        raise UserError(
            f"cannot download weights ({_reason(error)}): download {url} elsewhere and put it "
            f"at {path}{otherwise}"
        ) from error


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return " ".join(f"{reason}".split()) or type(error).__name__


def _web_address(location: str) -> str:
    """Resolves the model zoo names that mmengine knows to what they stand for."""
    for prefixes, table in (
        (("torchvision://", "modelzoo://"), "get_torchvision_models"),
        (("open-mmlab://", "openmmlab://"), "get_external_models"),
        (("mmcls://",), "get_mmcls_models"),
    ):
        for prefix in prefixes:
            if location.startswith(prefix):
                from mmengine.runner import checkpoint

                return getattr(checkpoint, table)().get(location[len(prefix) :], location)
    return location


def _is_pretrained(init: Any) -> bool:
    return isinstance(init, Mapping) and str(init.get("type")).endswith("Pretrained")


def _without_pretrained(init: Any) -> Any:
    if isinstance(init, (list, tuple)):
        return [entry for entry in init if not _is_pretrained(entry)] or None
    return None if _is_pretrained(init) else init


def _mappings(node: Any) -> Iterator[Any]:
    """Every dictionary at or below a node, outermost first."""
    if isinstance(node, Mapping):
        yield node
        for value in list(node.values()):
            yield from _mappings(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _mappings(value)
