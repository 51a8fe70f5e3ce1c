"""Paths of checkpoints and results, checked before the work that depends on them."""

import os
import tempfile
from pathlib import Path

from swin_dense.errors import UserError


def check_checkpoint_path(checkpoint: str | Path) -> None:
    """Raises a UserError if a checkpoint that is not a URL does not exist."""
    if "://" not in str(checkpoint) and not Path(checkpoint).is_file():
        raise UserError(f"no such checkpoint: {checkpoint}")


def make_output_dir(path: str | Path, flag: str) -> None:
    """Creates a folder for results before the work that they cost.

    Raises:
        UserError: it cannot be created or written to; the message suggests another ``flag``.
    """
    try:
        os.makedirs(path, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot write to {path}: {reason}; give another {flag}") from error
