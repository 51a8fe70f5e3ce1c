"""Weights from the web, kept where PyTorch keeps them."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlparse

import torch

from swin_dense.errors import UserError


def cached_path(url: str) -> Path:
    """Where a download of ``url`` is kept; PyTorch and mmengine look there too."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name


def local_file(location: str, otherwise: str = "") -> Path:
    """The local path of a file, downloaded first if it is on the web and not at hand.

    Args:
        location: a path, or an http(s) URL.
        otherwise: what else the user can do, for the error message.

    Raises:
        UserError: there is no such file, or it cannot be downloaded; says what to put where.
    """
    if not location.startswith(("http://", "https://")):
        path = Path(location).expanduser()
        if not path.is_file():
            raise UserError(f"weights {location} are missing: put the file there{otherwise}")
        return path
    path = cached_path(location)
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(location, str(path), progress=False)
        except Exception as error:  # urllib, ssl, sockets and disks all have their own
            reason = " ".join(str(getattr(error, "reason", None) or error).split())
            raise UserError(
                f"cannot download weights ({reason or type(error).__name__}): download {location} "
                f"elsewhere and put it at {path}{otherwise}"
            ) from error
    return path
