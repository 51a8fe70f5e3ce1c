"""The operators of ``mmcv._ext`` that are served with torchvision's or plain PyTorch's."""

from collections.abc import Callable
from typing import Any

OPERATORS: dict[str, Callable[..., Any]] = {}
