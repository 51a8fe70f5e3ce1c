"""160,000 iterations on ADE20K: SGD with polynomial decay, 16 images per step, as mmseg has it."""

_base_ = "mmseg::_base_/schedules/schedule_160k.py"

auto_scale_lr = dict(enable=False, base_batch_size=16)  # 8 GPUs x 2 images
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3, save_best="mIoU"))
del _base_["optimizer"]  # mmseg's name for a part of optim_wrapper
