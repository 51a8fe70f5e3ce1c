"""What OpenMMLab needs to run, unchanged, on today's PyTorch.

:func:`install` is called by ``import swin_dense``, before anything imports mmcv, mmdet or mmseg.
It prints nothing and compiles nothing. The global state it touches, all of it:

``sys.meta_path``
    Two finders. The last one finds ``mmcv._ext`` (:mod:`swin_dense.compat.mmcv_ext`), and is asked
    only if the installed mmcv has no compiled one: a full mmcv stays untouched. The first changes
    modules as they are imported: ``soft_nms`` in ``mmcv.ops.nms``, if that runs on our extension,
    becomes one that stays on the boxes' device; some modules of mmengine and mmdet import
    transformers and matplotlib when they use them (:mod:`swin_dense.compat.lazy_imports`);
    pycocotools reads files with a byte order mark (:mod:`swin_dense.compat.annotation_files`); and
    mmseg's weighted cross entropy takes labels that are ignored
    (:mod:`swin_dense.compat.class_weights`).
``torch.serialization``'s list of safe globals
    From PyTorch 2.6 on, the few types that mmengine's checkpoints contain are added, so that
    ``torch.load`` reads them with ``weights_only=True`` (:mod:`swin_dense.compat.checkpoint`).
``mmengine.runner.checkpoint``
    Reads every file, local or downloaded, by :func:`swin_dense.checkpoints.load_checkpoint`, which
    runs no code from it and reads ``.safetensors`` too. Its own ``torch.load`` does run code before
    PyTorch 2.6, and in the fork onedl-mmengine.
``mmengine.fileio``
    Its backend for local files writes them by :mod:`swin_dense.files`: checkpoints and results are
    never half written (:mod:`swin_dense.compat.file_backend`).
``mmengine.config.utils.MODULE2PACKAGE``
    Packages that were installed under the name of a fork are found
    (:mod:`swin_dense.compat.forks`).
``mmengine.config``
    ``_base_`` finds packages' configs by their path, ours included, and the text of a config is
    formatted once (:mod:`swin_dense.compat.configs`).
``mmengine.fileio``
    YAML files are read as data; mmengine's loader runs Python that they name
    (:mod:`swin_dense.compat.configs`).
``OMP_WAIT_POLICY``
    Set to PASSIVE, unless it is set, by :mod:`swin_dense` itself: PyTorch reads it when loaded.
``warnings.filters``
    Warnings about OpenMMLab's own code, on which the user can do nothing, are ignored
    (:mod:`swin_dense.compat.warning_filters`).
"""

import sys

from swin_dense.compat.forks import check_openmmlab, check_pkg_resources, name_forks

check_openmmlab()  # before anything below imports it

from swin_dense.compat import annotation_files, class_weights, lazy_imports, mmcv_ext  # noqa: E402
from swin_dense.compat.checkpoint import (  # noqa: E402
    allow_mmengine_types,
    patch_mmengine_loader,
)
from swin_dense.compat.configs import (  # noqa: E402
    find_bases_by_path,
    format_once,
    read_yaml_safely,
)
from swin_dense.compat.file_backend import write_whole_files  # noqa: E402
from swin_dense.compat.import_hooks import ExecutionFinder  # noqa: E402
from swin_dense.compat.warning_filters import ignore_openmmlab_warnings  # noqa: E402

__all__ = ["install"]


def install() -> None:
    """Make OpenMMLab importable and usable on today's PyTorch; calling it again changes nothing.

    Raises:
        UserError: ``pkg_resources``, which mmengine imports, is not installed.
    """
    ignore_openmmlab_warnings()
    check_pkg_resources()
    install_finders()
    name_forks()
    allow_mmengine_types()
    patch_mmengine_loader()
    write_whole_files()
    find_bases_by_path()
    format_once()
    read_yaml_safely()


def install_finders() -> None:
    """Put the two finders on ``sys.meta_path``, once."""
    if any(isinstance(finder, mmcv_ext.ExtensionFinder) for finder in sys.meta_path):
        return
    parts = (annotation_files, class_weights, lazy_imports, mmcv_ext)
    hooks = {name: hook for part in parts for name, hook in part.HOOKS.items()}
    sys.meta_path.insert(0, ExecutionFinder(hooks))
    # Last: Python's own finder of files comes first, and with it a compiled extension.
    sys.meta_path.append(mmcv_ext.ExtensionFinder())
