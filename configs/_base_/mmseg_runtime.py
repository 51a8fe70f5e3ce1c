"""What every segmentation run needs besides model, data and schedule."""

_base_ = "mmseg::_base_/default_runtime.py"

custom_imports = dict(imports=["swin_dense"], allow_failed_imports=False)
