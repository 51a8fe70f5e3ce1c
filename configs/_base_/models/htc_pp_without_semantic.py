"""The detector of HTC++ without its semantic branch: trains without COCO-stuff's label maps."""

_base_ = "./htc_pp.py"

model = dict(
    data_preprocessor=dict(pad_seg=False),
    roi_head=dict(semantic_roi_extractor=None, semantic_head=None),
)
