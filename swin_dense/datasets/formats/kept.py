"""Converted annotation files, kept in the user's cache folder under the hash of their content.

A run depends on them: a file never changes, as changed data get another file.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from swin_dense.files import replace_file


def cache_folder() -> Path:
    """Where they are: ``data`` in ``SWIN_DENSE_CACHE_DIR``, by default the user's cache folder."""
    folder = os.environ.get("SWIN_DENSE_CACHE_DIR") or user_cache_path("swin_dense")
    return Path(os.path.abspath(folder), "data")


def keep_coco(root: Path, name: str, content: dict[str, Any]) -> str:
    """Write the content of a COCO file, if it is not there; returns its path.

    Args:
        root: folder of the data set, whose name begins that of the file.
        name: the part, such as ``train``.
        content: of the file.
    """
    data = json.dumps(content).encode()
    digest = hashlib.sha256(data).hexdigest()[:12]
    path = cache_folder() / f"{Path(os.path.abspath(root)).name}-{name}-{digest}.json"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as file:
            file.write(data)
    return str(path)
