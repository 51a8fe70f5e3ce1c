"""What OpenMMLab needs to run, unchanged, on today's PyTorch.

:func:`install` is called by ``import swin_dense``, before anything imports mmcv, mmdet or mmseg.
It prints nothing and compiles nothing. The global state it touches, all of it:

``sys.meta_path``
    Two finders (:mod:`swin_dense.compat.mmcv_ext`). The last one finds ``mmcv._ext``, and is asked
    only if the installed mmcv has no compiled one: a full mmcv stays untouched. The first replaces
    ``soft_nms`` in ``mmcv.ops.nms``, if that runs on our extension, by one that stays on the
    boxes' device.
``torch.serialization``'s list of safe globals
    From PyTorch 2.6 on, the few types that mmengine's checkpoints contain are added, so that
    ``torch.load`` reads them with ``weights_only=True`` (:mod:`swin_dense.compat.checkpoint`).
``mmengine.runner.checkpoint``
    Reads every file, local or downloaded, by :func:`swin_dense.checkpoints.load_checkpoint`, which
    runs no code from it and reads ``.safetensors`` too. Its own ``torch.load`` does run code before
    PyTorch 2.6, and in the fork onedl-mmengine.
``mmengine.config.utils.MODULE2PACKAGE``
    Packages that were installed under the name of a fork are found
    (:mod:`swin_dense.compat.forks`).
``OMP_WAIT_POLICY``
    Set to PASSIVE, unless it is set, by :mod:`swin_dense` itself: PyTorch reads it when loaded.
``warnings.filters``
    Warnings about OpenMMLab's own code, on which the user can do nothing, are ignored
    (:mod:`swin_dense.compat.warning_filters`).
"""

from swin_dense.compat.forks import check_openmmlab, check_pkg_resources, name_forks
from swin_dense.compat.mmcv_ext import install_finder
from swin_dense.compat.warning_filters import ignore_openmmlab_warnings

__all__ = ["install"]


def install() -> None:
    """Make OpenMMLab importable and usable on today's PyTorch; calling it again changes nothing.

    Raises:
        UserError: mmengine or mmcv is not installed, or ``pkg_resources``, which mmengine imports.
    """
    check_openmmlab()
    from swin_dense.compat.checkpoint import allow_mmengine_types, patch_mmengine_loader

    ignore_openmmlab_warnings()
    check_pkg_resources()
    install_finder()
    name_forks()
    allow_mmengine_types()
    patch_mmengine_loader()
