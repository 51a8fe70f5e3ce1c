"""Runtime settings of every segmentation config."""

_base_ = "mmseg::_base_/default_runtime.py"

custom_imports = dict(imports=["swin_dense"], allow_failed_imports=False)
