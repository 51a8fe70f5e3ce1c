"""Where the detectors and segmentors are that the authors released, by our configs."""

_RELEASES = "https://github.com/SwinTransformer/storage/releases/download"
# Detectors and segmentors that the authors released, by config.
_FILES = {
    "mask_rcnn_swin_t_1x_coco": "v1.0.3/mask_rcnn_swin_tiny_patch4_window7_1x",
    "mask_rcnn_swin_t_coco": "v1.0.2/mask_rcnn_swin_tiny_patch4_window7",
    "mask_rcnn_swin_s_coco": "v1.0.2/mask_rcnn_swin_small_patch4_window7",
    "cascade_swin_t_1x_coco": "v1.0.3/cascade_mask_rcnn_swin_tiny_patch4_window7_1x",
    "cascade_swin_t_coco": "v1.0.2/cascade_mask_rcnn_swin_tiny_patch4_window7",
    "cascade_swin_s_coco": "v1.0.2/cascade_mask_rcnn_swin_small_patch4_window7",
    "cascade_swin_b_coco": "v1.0.2/cascade_mask_rcnn_swin_base_patch4_window7",
    "reppoints_v2_swin_t_coco": "v1.0.9/reppointsv2_swin_tiny_patch4_window7_3x",
    "mask_reppoints_v2_swin_t_coco": "v1.0.9/mask_reppointsv2_swin_tiny_patch4_window7_3x",
    "upernet_swin_t_ade20k": "v1.0.1/upernet_swin_tiny_patch4_window7_512x512",
    "upernet_swin_s_ade20k": "v1.0.1/upernet_swin_small_patch4_window7_512x512",
    "upernet_swin_b_512_ade20k": "v1.0.1/upernet_swin_base_patch4_window7_512x512",
}
WEIGHTS = {config: f"{_RELEASES}/{file}.pth" for config, file in _FILES.items()}
# The same detectors and segmentor, with a backbone that MoBY pretrained without labels.
_MOBY_FILES = {
    "mask_rcnn_swin_t_1x_coco": "mask_rcnn_swin_tiny_patch4_window7_1x",
    "mask_rcnn_swin_t_coco": "mask_rcnn_swin_tiny_patch4_window7_3x",
    "cascade_swin_t_1x_coco": "cascade_mask_rcnn_swin_tiny_patch4_window7_1x",
    "cascade_swin_t_coco": "cascade_mask_rcnn_swin_tiny_patch4_window7_3x",
    "upernet_swin_t_ade20k": "upernet_swin_tiny_patch4_window7_512x512",
}
MOBY_WEIGHTS = {c: f"{_RELEASES}/v1.0.3/moby_{file}.pth" for c, file in _MOBY_FILES.items()}
