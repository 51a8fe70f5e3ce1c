"""ADE20K, 150 classes, crops of 640 x 640."""

_base_ = "mmseg::_base_/datasets/ade20k_640x640.py"

data_root = "data/ade/ADEChallengeData2016/"
train_dataloader = dict(batch_size=2, dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader

# Scales are multiples of the single-scale test size, as in the official code; mmseg's own
# pipeline would scale the image's original size instead.
_base_.tta_pipeline[1].transforms[0] = [
    dict(type="Resize", scale=(int(2560 * ratio), int(640 * ratio)), keep_ratio=True)
    for ratio in _base_.img_ratios
]
