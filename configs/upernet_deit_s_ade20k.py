"""UperNet, DeiT-S + deconv, 512: mIoU 44.0 at six scales with flip, 52 M, 1099 G (Table 3)."""

_base_ = [
    "./_base_/models/upernet_deit.py",
    "./_base_/datasets/ade20k.py",
    "./_base_/schedules/ade20k_160k.py",
    "./_base_/mmseg_runtime.py",
]

optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={"pos_embed": dict(decay_mult=0.0), "cls_token": dict(decay_mult=0.0)}
    )
)
