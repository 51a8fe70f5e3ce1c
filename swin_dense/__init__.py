"""Swin Transformer for dense prediction, on OpenMMLab.

Importing this package prepares OpenMMLab for today's PyTorch (:mod:`swin_dense.compat`) and
registers everything under the scope ``swin_dense``.
"""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swin_dense.engine.trained_model import TrainedModel

# Read when PyTorch is loaded: CPU threads that wait sleep instead of spinning. Where other
# processes want the cores too, such as data loaders, spinning makes training many times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from swin_dense import compat

compat.install()  # before anything below imports mmcv, mmdet or mmseg

from swin_dense.backbones import DeiT, SwinMLP, SwinTransformer, SwinTransformerV2  # noqa: E402

__version__ = "0.1.0"
__all__ = ["DeiT", "SwinMLP", "SwinTransformer", "SwinTransformerV2", "__version__", "load"]


def load(
    config: str | os.PathLike[str],
    checkpoint: str | os.PathLike[str],
    device: str = "auto",
    *,
    cfg_options: Mapping[str, Any] | None = None,
) -> "TrainedModel":
    """Loads a trained detector or segmentor to predict with.

    Example::

        model = swin_dense.load('my_data.py', 'work_dirs/my_data/best.pth')
        found = model.predict('photo.jpg')  # found.boxes, .names, .scores, .masks or .label_map
        found.draw('drawn.jpg')
        maps = model.features('photo.jpg')

    Args:
        config: a config file, also one with ``own_data``, or the name of one of ours.
        checkpoint: weights of the config's model: a path, a URL, or a work dir, for its best.pth.
        device: 'auto' (a GPU when there is one), 'cpu', 'cuda' or 'cuda:N'.
        cfg_options: dotted config keys and their new values.

    Returns:
        A :class:`~swin_dense.engine.trained_model.TrainedModel`, whose ``predict`` returns
        :class:`~swin_dense.engine.prediction.Prediction`.

    Raises:
        UserError: config or checkpoint are missing, broken, or not of the same model.
    """
    from swin_dense.engine.trained_model import TrainedModel

    return TrainedModel(config, checkpoint, device, cfg_options)
