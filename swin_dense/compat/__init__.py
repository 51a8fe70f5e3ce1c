"""What OpenMMLab needs to run, unchanged, on today's PyTorch.

:func:`install` is called by ``import swin_dense``, before anything imports mmcv, mmdet or mmseg.
It prints nothing and compiles nothing. The global state it touches, all of it:

``sys.meta_path``
    Two finders (:mod:`swin_dense.compat.mmcv_ext`). The last is asked for ``mmcv._ext`` only when
    the installed mmcv has no compiled one: a full mmcv stays untouched. The first replaces
    ``soft_nms`` in ``mmcv.ops.nms``, where that runs on our extension, by one that stays on the
    boxes' device.
``torch.serialization``'s list of safe globals
    The few types that mmengine's checkpoints hold are added, so that ``torch.load`` reads them
    with ``weights_only=True`` (:mod:`swin_dense.compat.checkpoint`).
``mmengine.runner.checkpoint.load_url``
    Replaced by itself with ``weights_only=True``: downloads are checked like local files.
``mmengine.runner.checkpoint.CheckpointLoader``
    Reads local ``.safetensors`` files too.
``OMP_WAIT_POLICY``
    Set to PASSIVE, unless it is set, by :mod:`swin_dense` itself: PyTorch reads it when loaded.
``warnings.filters``
    Messages about OpenMMLab's own code that the user can do nothing about are ignored
    (:mod:`swin_dense.compat.noise`).
"""

from swin_dense.compat.checkpoint import allow_mmengine_types, patch_mmengine_loader
from swin_dense.compat.mmcv_ext import install_finder
from swin_dense.compat.noise import check_pkg_resources, ignore_openmmlab_warnings

__all__ = ["install"]


def install() -> None:
    """Make OpenMMLab importable and usable on today's PyTorch; calling it again changes nothing.

    Raises:
        UserError: ``pkg_resources``, which mmengine imports, is not installed.
    """
    ignore_openmmlab_warnings()
    check_pkg_resources()
    install_finder()
    allow_mmengine_types()
    patch_mmengine_loader()
