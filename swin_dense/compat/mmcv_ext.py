"""``mmcv._ext`` without a compiler: a module finder that serves operators from torchvision.

``mmcv.ops`` looks up, at import, some 150 operators in the compiled extension ``mmcv._ext``.
mmcv-lite has none, so that even ``import mmdet.models`` fails. The finder here answers for that
one module name with the operators of :mod:`swin_dense.compat.ops`; any other operator is there by
name and raises ``NotImplementedError`` when it is called.
"""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

EXTENSION = "mmcv._ext"

_FULL_MMCV = (
    "Install a full mmcv, compiled from source (about 10 minutes; it needs a C++ compiler, and "
    "nvcc for CUDA): python -m pip uninstall -y mmcv-lite && MMCV_WITH_OPS=1 python -m pip "
    "install --no-build-isolation mmcv==2.1.0"
)


def missing_operator(name: str) -> Callable[..., Any]:
    """A stand-in for the operator ``name`` that raises ``NotImplementedError`` when called."""

    def operator(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(
            f"mmcv's operator '{name}' is not among those that swin_dense serves without a "
            f"compiled mmcv. {_FULL_MMCV}"
        )

    operator.__name__ = operator.__qualname__ = name
    return operator


def _operator(name: str) -> Callable[..., Any]:
    # Called for names that the module lacks. Dunder names are probes of the import system and of
    # inspect, which must see that they are absent.
    if name.startswith("__"):
        raise AttributeError(f"module '{EXTENSION}' has no attribute '{name}'")
    return missing_operator(name)


class _ExtensionLoader(importlib.abc.Loader):
    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None  # Python's own module type will do

    def exec_module(self, module: ModuleType) -> None:
        from swin_dense.compat.ops import OPERATORS

        vars(module).update(OPERATORS)
        vars(module)["__getattr__"] = _operator


class ExtensionFinder(importlib.abc.MetaPathFinder):
    """Finds ``mmcv._ext``, and nothing else, for whoever did not find a compiled one."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of our ``mmcv._ext``; None for any other name."""
        if fullname != EXTENSION:
            return None
        # A real spec: mmengine asks pkgutil.find_loader whether mmcv's operators exist.
        return importlib.machinery.ModuleSpec(fullname, _ExtensionLoader(), origin=__name__)


def install_finder() -> None:
    """Append the finder to ``sys.meta_path``, once."""
    if not any(isinstance(finder, ExtensionFinder) for finder in sys.meta_path):
        # Last: Python's own finder of files comes first, and with it a compiled extension.
        sys.meta_path.append(ExtensionFinder())
