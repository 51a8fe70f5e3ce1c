"""Cascade Mask R-CNN Swin V2-T on four COCO images, small, to see that it learns them."""

_base_ = ["./coco.py"]

model = dict(
    backbone=dict(
        _delete_=True,
        type="swin_dense.SwinTransformerV2",
        arch="tiny",
        window_size=8,
        drop_path_rate=0.0,
        out_indices=(0, 1, 2, 3),
    )
)
