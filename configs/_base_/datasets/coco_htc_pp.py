"""``coco_htc_pp_without_semantic`` and COCO-stuff's label maps, in ``stuffthingmaps/``."""

_base_ = "./coco_htc_pp_without_semantic.py"

train_pipeline = _base_.train_pipeline
train_pipeline[1]["with_seg"] = True
train_dataloader = dict(
    dataset=dict(
        data_prefix=dict(img="train2017/", seg="stuffthingmaps/train2017/"),
        pipeline=train_pipeline,
    )
)
