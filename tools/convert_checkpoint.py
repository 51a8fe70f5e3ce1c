"""Converts Swin weights between the layouts of OpenMMLab, the authors, timm, HF, torchvision."""

import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from swin_dense.checkpoints import TARGETS, convert, load_checkpoint, local_file
from swin_dense.checkpoints.conversion import Converted, as_checkpoint
from swin_dense.checkpoints.loading import first
from swin_dense.engine.terminal.cli import OneLineParser, run_tool
from swin_dense.engine.terminal.console import notify_user
from swin_dense.errors import UserError

_TORCH = (".pth", ".pt", ".bin", ".ckpt")
_EPILOG = (
    "The layout of IN is recognised; it may be wrapped, and a .safetensors file. hf writes the "
    "names of the installed transformers, hf4 those of the hub and of transformers until 5.8, hf5 "
    "those since 5.9."
)


def make_parser() -> OneLineParser:
    """The command line."""
    parser = OneLineParser(description=__doc__, epilog=_EPILOG)
    parser.add_argument("source", metavar="IN", help="weights, a file or a URL")
    parser.add_argument("target", metavar="OUT", help="a new .pth or .safetensors file")
    parser.add_argument("--to", required=True, choices=list(TARGETS), help="layout of OUT")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    return parser


def run(args: Namespace) -> None:
    """Converts a file as the arguments ask for."""
    target = Path(args.target).expanduser()
    _check_target(target, args.overwrite)
    checkpoint = load_checkpoint(local_file(args.source))
    try:
        converted = convert(checkpoint, args.to)
    except UserError as error:
        raise UserError(f"cannot convert {args.source}: {error}") from error
    _write(target, converted, as_checkpoint(converted, args.to, checkpoint.get("meta")))
    notify_user(f"{args.source} ({converted.layout} layout) -> {target} ({args.to} layout)")
    notify_user(
        f"{len(converted.state)} weights" + (", heads included" if converted.is_full_model else "")
    )
    if converted.unmapped:
        notify_user(
            f"not in {args.to} models, so with OpenMMLab's names: {first(converted.unmapped)}"
        )
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
    part = target.with_name(f".{target.name}.part")
    try:
        with part.open("wb") as file:
            if target.suffix == ".safetensors":
                # safetensors refuses tensors that share memory; transformers asks for "pt".
                state = {name: value.clone() for name, value in converted.state.items()}
                file.write(safetensors.torch.save(state, {"format": "pt"}))
            else:
                torch.save(content, file)
        os.replace(part, target)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool; returns its exit status."""
    return run_tool(make_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
