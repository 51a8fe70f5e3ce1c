"""Checkpoints that are read and results that are written: checked before a run, never half done."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from swin_dense.errors import UserError


def check_checkpoint_path(checkpoint: str | Path) -> None:
    """Makes sure that a local checkpoint exists.

    Raises:
        UserError: it does not.
    """
    if "://" not in str(checkpoint) and not Path(checkpoint).is_file():
        raise UserError(f"no such checkpoint: {checkpoint}")


def make_output_dir(path: str | Path, flag: str) -> None:
    """Creates a folder for results, so that a run does not fail at its end.

    Args:
        path: the folder.
        flag: the command line's flag that names the folder, for the error message.

    Raises:
        UserError: it cannot be created or written to.
    """
    try:
        os.makedirs(path, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot write to {path}: {reason}; give another {flag}") from error


def write_json(path: Path, content: Any) -> None:
    """Replaces a JSON file in one step, so that an interruption leaves the old one complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(part, path)
