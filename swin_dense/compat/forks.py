"""OpenMMLab's packages: which are there, also from forks with other names, as onedl-mmdetection."""

import importlib.util
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from swin_dense.errors import UserError

_INSTALL = "python -m pip install "
_PACKAGES = {
    "mmengine": '"mmengine>=0.10.7,<0.11"',
    "mmcv": "mmcv-lite==2.1.0",
    "mmdet": '"mmdet>=3.3,<3.4"',
    "mmseg": '"mmsegmentation>=1.2.2,<1.3" ftfy regex',
}


def missing_package(name: str) -> UserError | None:
    """The error that says how to install one of OpenMMLab's packages; None for any other."""
    if name not in _PACKAGES:
        return None
    return UserError(f"this needs {name}, which is not installed: run {_INSTALL}{_PACKAGES[name]}")


def check_openmmlab() -> None:
    """Raise a :class:`UserError` if one of the packages that everything needs is missing."""
    for name in ("mmengine", "mmcv"):
        if importlib.util.find_spec(name) is None:
            raise UserError(f"swin_dense needs {name}: run {_INSTALL}{_PACKAGES[name]}")


def name_forks() -> None:
    """Let ``mmseg::config`` be found where mmseg was installed as onedl-mmsegmentation."""
    from mmengine.config.utils import MODULE2PACKAGE

    for module, package in MODULE2PACKAGE.items():
        if importlib.util.find_spec(module) is not None:
            try:
                version(package)
            except PackageNotFoundError:
                MODULE2PACKAGE[module] = module


def check_pkg_resources() -> None:
    """Raise a :class:`UserError` if ``pkg_resources`` is not installed and mmengine imports it.

    mmengine 0.10.7 does while it reads a config; its forks do not. Python 3.12's virtual
    environments have no setuptools, and setuptools 82 removed the module.
    """
    if importlib.util.find_spec("pkg_resources") is None and _mmengine_imports_it():
        raise UserError(
            "the module pkg_resources, which mmengine imports, is missing: "
            'run python -m pip install "setuptools>=70.1,<82"'
        )


def _mmengine_imports_it() -> bool:
    spec = importlib.util.find_spec("mmengine")
    if spec is None or spec.origin is None:
        return False
    file = Path(spec.origin).parent / "utils" / "package_utils.py"
    return "import pkg_resources" in file.read_text()
