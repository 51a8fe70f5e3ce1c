"""What a measurement was made with."""

import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

import torch

from swin_dense.ops.autotune import cpu_name

_PACKAGES = ("torch", "torchvision", "mmengine", "mmcv", "mmcv-lite", "mmdet", "mmsegmentation")


def describe_machine(device: torch.device) -> str:
    """The device's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return cpu_name()


def describe_versions(more: Iterable[str] = ()) -> str:
    """Python, this package, what it computes with, and ``more`` packages, those installed."""
    found = [f"Python {platform.python_version()}"]
    for name in ("swin_dense", *_PACKAGES, *more):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)
