"""Warnings and imports of OpenMMLab that its user can do nothing about."""

import importlib.util
import warnings

from swin_dense.errors import UserError

_OPENMMLAB = r"(mmcv|mmdet|mmengine|mmseg)\b"


def ignore_openmmlab_warnings() -> None:
    """Ignore, for the whole process, what OpenMMLab's code makes Python and PyTorch complain of.

    - ``pkg_resources is deprecated``: mmengine imports it, and reloads it at every look-up of a
      package, so that silencing the first import alone would not do.
    - invalid escape sequences in docstrings (a SyntaxWarning since Python 3.12, shown when the
      files were not compiled at installation);
    - ``torch.cuda.amp.*`` is deprecated, when it is mmengine, mmdet or mmseg that call it;
    - mask heads copying a tensor with ``new_tensor``;
    - ``torch.meshgrid`` without ``indexing`` in mmdet's anchors (PyTorch names its own file
      as the place, so that this one is ignored whoever calls it).
    """
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated", category=UserWarning)
    warnings.filterwarnings(
        "ignore",
        message="invalid escape sequence",
        category=SyntaxWarning,
        module=rf".*[/\\]{_OPENMMLAB}",
    )
    warnings.filterwarnings(
        "ignore",
        message=r"`torch\.cuda\.amp\.",
        category=FutureWarning,
        module=_OPENMMLAB,
    )
    warnings.filterwarnings(
        "ignore",
        message="To copy construct from a tensor",
        category=UserWarning,
        module=_OPENMMLAB,
    )
    warnings.filterwarnings("ignore", message="torch.meshgrid: in an upcoming release")


def check_pkg_resources() -> None:
    """Raise a :class:`UserError` with the mend when ``pkg_resources`` is not installed.

    mmengine 0.10.7 imports it in the middle of reading a config. Python 3.12's virtual
    environments have no setuptools, and setuptools 82 removed the module.
    """
    if importlib.util.find_spec("pkg_resources") is None:
        raise UserError(
            "the module pkg_resources, which mmengine imports, is missing: "
            'run python -m pip install "setuptools>=70.1,<82"'
        )
