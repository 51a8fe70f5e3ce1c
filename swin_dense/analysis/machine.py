"""What a measurement was made with."""

import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

_PACKAGES = ("torch", "torchvision", "mmengine", "mmcv", "mmcv-lite", "mmdet", "mmsegmentation")


def describe_machine(device: torch.device) -> str:
    """The device's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def describe_versions(more: Iterable[str] = ()) -> str:
    """Python, this package, what it computes with, and ``more`` packages, those installed."""
    found = [f"Python {platform.python_version()}"]
    for name in ("swin_dense", *_PACKAGES, *more):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)
