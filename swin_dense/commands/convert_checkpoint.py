"""Converts Swin weights between the layouts of OpenMMLab, the authors, timm, HF, torchvision."""

from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from swin_dense.checkpoints import convert, load_checkpoint, local_file
from swin_dense.checkpoints.conversion import Converted, as_checkpoint
from swin_dense.checkpoints.loading import first
from swin_dense.engine.terminal.console import notify_user
from swin_dense.errors import UserError
from swin_dense.files import replace_file

_TORCH = (".pth", ".pt", ".bin", ".ckpt")


def convert_file(source: str, target: str | Path, to: str, overwrite: bool = False) -> None:
    """Converts weights to another layout, and tells what became of them.

    Args:
        source: weights, a file or a URL.
        target: a new .pth or .safetensors file.
        to: one of :data:`swin_dense.checkpoints.TARGETS`.
        overwrite: replace ``target`` if it exists.

    Raises:
        UserError: ``source`` is not of a known layout, or ``target`` cannot be written.
    """
    target = Path(target).expanduser()
    _check_target(target, overwrite)
    checkpoint = load_checkpoint(local_file(source))
    try:
        converted = convert(checkpoint, to)
    except UserError as error:
        raise UserError(f"cannot convert {source}: {error}") from error
    _write(target, converted, as_checkpoint(converted, to, checkpoint.get("meta")))
    notify_user(f"{source} ({converted.layout} layout) -> {target} ({to} layout)")
    notify_user(
        f"{len(converted.state)} weights" + (", heads included" if converted.is_full_model else "")
    )
    if converted.unmapped:
        notify_user(f"not in {to} models, so with OpenMMLab's names: {first(converted.unmapped)}")
    if converted.dropped:
        notify_user(f"dropped, not part of the backbone: {first(converted.dropped)}")


def _check_target(target: Path, overwrite: bool) -> None:
    if target.suffix not in (*_TORCH, ".safetensors"):
        raise UserError(f"{target} has no known format: name it .pth or .safetensors")
    if target.is_dir():
        raise UserError(f"{target} is a folder: name a file in it")
    if target.exists() and not overwrite:
        raise UserError(f"{target} exists: name another file, or add --overwrite")
    if not target.parent.is_dir():
        raise UserError(f"no such folder: {target.parent}")


def _write(target: Path, converted: Converted, content: dict[str, Any]) -> None:
    """Writes a temporary file first, so that a failure leaves an existing target unchanged."""
    try:
        with replace_file(target) as file:
            if target.suffix == ".safetensors":
                # safetensors refuses tensors that share memory; transformers asks for "pt".
                state = {name: value.clone() for name, value in converted.state.items()}
                file.write(safetensors.torch.save(state, {"format": "pt"}))
            else:
                torch.save(content, file)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from error
