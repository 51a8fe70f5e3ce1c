"""ADE20K, 150 classes, crops of 512 x 512."""

_base_ = "mmseg::_base_/datasets/ade20k.py"

data_root = "data/ade/ADEChallengeData2016/"
train_dataloader = dict(batch_size=2, dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader

# Scales are multiples of the single-scale test size, as in the official code; mmseg's own
# pipeline would scale the image's original size instead.
_base_.tta_pipeline[1].transforms[0] = [
    dict(type="Resize", scale=(int(2048 * ratio), int(512 * ratio)), keep_ratio=True)
    for ratio in _base_.img_ratios
]
