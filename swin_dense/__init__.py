"""Swin Transformer for dense prediction, on OpenMMLab.

Importing this package prepares OpenMMLab for today's PyTorch (:mod:`swin_dense.compat`) and
registers everything under the scope ``swin_dense``.
"""

import os

# Read when PyTorch is loaded: CPU threads that wait sleep instead of spinning. Where other
# processes want the cores too, such as data loaders, spinning makes training many times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from swin_dense import compat

compat.install()  # before anything below imports mmcv, mmdet or mmseg

from swin_dense.backbones import DeiT, SwinMLP, SwinTransformer, SwinTransformerV2  # noqa: E402

__version__ = "0.1.0"
__all__ = ["DeiT", "SwinMLP", "SwinTransformer", "SwinTransformerV2", "__version__"]
