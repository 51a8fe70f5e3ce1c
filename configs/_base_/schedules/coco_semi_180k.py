"""180,000 iterations of 8 images with labels and 32 without: AdamW, learning rate / 10 at 120,000
and 160,000.

Length and steps are those of Soft Teacher with 10 % of the labels, and the teacher is its average
of the student's weights, at 0.999; the optimizer is that of the other detectors here.
"""

train_cfg = dict(type="IterBasedTrainLoop", max_iters=180000, val_interval=5000)
val_cfg = dict(type="TeacherStudentValLoop")
test_cfg = dict(type="TestLoop")

param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(
        type="MultiStepLR",
        begin=0,
        end=180000,
        by_epoch=False,
        milestones=[120000, 160000],
        gamma=0.1,
    ),
]

optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=0.0001, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(
        custom_keys={
            "absolute_pos_embed": dict(decay_mult=0.0),
            "relative_position_bias_table": dict(decay_mult=0.0),
            "norm": dict(decay_mult=0.0),
        }
    ),
)

auto_scale_lr = dict(enable=False, base_batch_size=40)  # 8 GPUs x 5 images

custom_hooks = [dict(type="MeanTeacherHook", momentum=0.001)]
