"""Runtime settings of every detection config."""

_base_ = "mmdet::_base_/default_runtime.py"

custom_imports = dict(imports=["swin_dense"], allow_failed_imports=False)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3, save_best="coco/bbox_mAP"))
