"""RepPoints V2 with a small mask network for every object."""

_base_ = "./reppoints_v2.py"

model = dict(
    data_preprocessor=dict(pad_mask=True),
    bbox_head=dict(
        mask_head=dict(
            type="swin_dense.ConditionalMaskHead",
            channels=128,
            num_convs=4,
            mask_channels=8,
            num_layers=3,
            max_instances=500,
            loss_weights=(0.0, 0.6, 1.0),
            norm_cfg=dict(type="BN"),
        )
    ),
    test_cfg=dict(mask_thr_binary=0.5),
)
