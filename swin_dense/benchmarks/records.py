"""Records of measurements: where and with what they were made, and their JSON files."""

import datetime
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from swin_dense.analysis.machine import describe_machine, describe_versions
from swin_dense.errors import UserError

KINDS = (
    "backbone",
    "memory",
    "scaling",
    "detector",
    "waits",
    "compile",
    "evaluation",
    "pipeline",
    "kernels",
    "passes",
    "tune",
)
_MORE_PACKAGES = ("timm", "transformers", "pycocotools", "faster-coco-eval", "opencv-python")
# With a value, and without.
_WITHOUT_EFFECT = ("--json", "--remark")
_FLAGS_WITHOUT_EFFECT = ("--list",)


def circumstances(
    device: torch.device, command: Sequence[str], remark: str | None
) -> dict[str, Any]:
    """Machine, versions, date and command (the tool's arguments) of a measurement on ``device``."""
    machine: dict[str, Any] = {"device": device.type, "name": describe_machine(device)}
    if device.type == "cpu":
        machine |= {"cores": os.cpu_count(), "threads": torch.get_num_threads()}
    return {
        "command": f"tools/benchmark.py {shlex.join(_relevant(command))}",
        "date": datetime.date.today().isoformat(),
        "machine": machine,
        "versions": describe_versions(_MORE_PACKAGES),
        "remark": remark,
    }


def _relevant(command: Sequence[str]) -> list[str]:
    """The command without what changes no measurement, nor folders of this machine."""
    words, skip = [], False
    for word in command:
        if not skip and word.partition("=")[0] not in _WITHOUT_EFFECT + _FLAGS_WITHOUT_EFFECT:
            words.append(Path(word).name if Path(word).is_absolute() else word)
        skip = word in _WITHOUT_EFFECT
    return words


def machine_text(record: Mapping[str, Any]) -> str:
    """The machine in one phrase."""
    machine = record["machine"]
    if machine["device"] != "cpu":
        return machine["name"]
    threads = machine["threads"]
    return f"{machine['name']}, {threads} thread{'s' if threads != 1 else ''}"


def read(path: Path) -> dict[str, Any]:
    """A record.

    Raises:
        UserError: the file is not one.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not isinstance(record, dict) or record.get("kind") not in KINDS:
        raise UserError(f"{path} is no record of tools/benchmark.py")
    if not record.keys() & {"models", "steps", "kernels", "races"}:
        raise UserError(f"{path} is a record of an earlier version: measure it again")
    return record
