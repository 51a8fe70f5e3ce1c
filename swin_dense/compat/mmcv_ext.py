"""``mmcv._ext`` without a compiler: a module finder that provides operators from torchvision.

``mmcv.ops`` looks up, at import, some 150 operators in the compiled extension ``mmcv._ext``.
mmcv-lite has none, so that even ``import mmdet.models`` fails. The finder here answers for that
one module name with the operators of :mod:`swin_dense.compat.ops`; any other operator raises
``NotImplementedError`` when it is called.
"""

import importlib.abc
import importlib.machinery
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from swin_dense.compat.import_hooks import Execute, Hook

EXTENSION = "mmcv._ext"

_FULL_MMCV = (
    "Install a full mmcv, compiled from source (about 10 minutes; it needs a C++ compiler, and "
    "nvcc for CUDA): python -m pip uninstall -y mmcv-lite && MMCV_WITH_OPS=1 python -m pip "
    "install --no-build-isolation mmcv==2.1.0"
)


def _missing_operator(name: str) -> Callable[..., Any]:
    """The extension's ``__getattr__``: an operator that raises ``NotImplementedError``."""
    # Dunder names are probes of the import system and of inspect.
    if name.startswith("__"):
        raise AttributeError(f"module '{EXTENSION}' has no attribute '{name}'")

    def operator(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(
            f"mmcv's operator '{name}' is not among those that swin_dense provides without a "
            f"compiled mmcv. {_FULL_MMCV}"
        )

    operator.__name__ = operator.__qualname__ = name
    return operator


class _ExtensionLoader(importlib.abc.Loader):
    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None  # the default module type

    def exec_module(self, module: ModuleType) -> None:
        from swin_dense.compat.ops import OPERATORS

        vars(module).update(OPERATORS)
        vars(module)["__getattr__"] = _missing_operator


class ExtensionFinder(importlib.abc.MetaPathFinder):
    """Finds ``mmcv._ext``, and nothing else, if no other finder found a compiled one."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of our ``mmcv._ext``; None for any other name."""
        if fullname != EXTENSION:
            return None
        # A real spec: mmengine asks pkgutil.find_loader whether mmcv's operators exist.
        return importlib.machinery.ModuleSpec(fullname, _ExtensionLoader(), origin=__name__)


def replace_soft_nms(execute: Execute, module: ModuleType) -> None:
    """Executes ``mmcv.ops.nms``, and replaces its ``soft_nms`` if that uses our extension.

    mmcv's own function moves the boxes to the CPU; ours computes on their device.
    """
    execute(module)
    if isinstance(module.ext_module.__spec__.loader, _ExtensionLoader):
        from swin_dense.compat.ops.boxes import soft_nms

        vars(module)["soft_nms"] = soft_nms


HOOKS: dict[str, Hook] = {"mmcv.ops.nms": replace_soft_nms}
