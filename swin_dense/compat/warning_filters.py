"""Warnings about OpenMMLab's own code, on which its user can do nothing."""

import importlib
import warnings

from swin_dense.ops.torch_versions import VERSION

_OPENMMLAB = r"(mmcv|mmdet|mmengine|mmseg)\b"
# Message, category, module: arguments of ``warnings.filterwarnings``.
_IGNORED: tuple[tuple[str, type[Warning], str], ...] = (
    # mmengine imports it, and reloads it at every look-up of a package: a filter around the first
    # import alone would not do.
    ("pkg_resources is deprecated", UserWarning, ""),
    # In docstrings; a SyntaxWarning since Python 3.12, shown when the files were not compiled at
    # installation.
    ("invalid escape sequence", SyntaxWarning, rf".*[/\\]{_OPENMMLAB}"),
    (r"`torch\.cuda\.amp\.", FutureWarning, _OPENMMLAB),
    # The first gradients that are added up, or that overflow in 16 bits, make no step.
    (r"Detected call of `scheduler\.step", UserWarning, _OPENMMLAB),
    # Mask heads copy a tensor with ``new_tensor``.
    ("To copy construct from a tensor", UserWarning, _OPENMMLAB),
    # mmdet's anchors call it without ``indexing``; PyTorch names its own file as the module.
    ("torch.meshgrid: in an upcoming release", Warning, ""),
)


def ignore_openmmlab_warnings() -> None:
    """Ignore, for the whole process, the warnings that OpenMMLab's code causes."""
    for message, category, module in _IGNORED:
        warnings.filterwarnings("ignore", message=message, category=category, module=module)
    if VERSION in ((2, 4), (2, 5)):
        # mmengine imports it, and it warns whatever filters say.
        with warnings.catch_warnings(record=True):
            importlib.import_module("torch.distributed.optim")
