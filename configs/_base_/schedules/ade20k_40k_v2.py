"""40,000 iterations on ADE20K as Swin V2's largest models: 64 images per step, linear decay."""

_base_ = "./ade20k_160k.py"

train_cfg = dict(max_iters=40000, val_interval=4000)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=375),
    dict(type="PolyLR", eta_min=0.0, power=1.0, begin=0, end=40000, by_epoch=False),
]
optim_wrapper = dict(optimizer=dict(weight_decay=0.05))
default_hooks = dict(checkpoint=dict(interval=4000))
auto_scale_lr = dict(base_batch_size=64)  # 32 GPUs x 2 images
