# ruff: noqa: C408 (a config, in the style of OpenMMLab)
"""The tiny segmentor for test_two_nodes.py."""

_base_ = "./tiny_segmentor.py"

custom_imports = dict(imports=["swin_dense", "two_nodes_hook"])
custom_hooks = [dict(type="WriteWeights")]
train_cfg = dict(max_iters=12, val_interval=12)
default_hooks = dict(checkpoint=dict(interval=4))
optim_wrapper = dict(optimizer=dict(lr=1e-2))
log_processor = dict(window_size=1)
