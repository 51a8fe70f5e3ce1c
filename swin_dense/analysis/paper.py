"""What is published, row by row, and the config that each row is counted from.

Sources: tables 2 and 3 of the paper (arXiv 2103.14030), and the result tables of the official
detection and segmentation code for what is in neither; tables 1, 3 and 4 of Swin V2 (arXiv
2111.09883); the result tables of MoBY (arXiv 2105.04553). Nothing here is measured by this package.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from swin_dense.checkpoints.released import MOBY_WEIGHTS, WEIGHTS
from swin_dense.errors import UserError


@dataclass(frozen=True)
class Row:
    """A published result.

    Attributes:
        table: 'table_2a', 'table_2b', 'table_2c', 'table_3', 'official_results_not_in_tables',
            'moby', 'v2_table_1', 'v2_table_3', 'v2_table_4', or 'not_published'.
        method, backbone: as the table names them.
        config: stem of the config file.
        params_m: millions of parameters; None where nothing is published.
        flops_g: billions of multiply-accumulates; None where nothing is published.
        fps: images a second on one V100; None where nothing is published.
        crop: side of the training crops in pixels, of segmentation.
        box, mask: COCO AP on minival, in percent.
        miou: ADE20K validation mIoU in percent, several scales and flips merged.
        miou_single: the same of one scale, without flips.
        schedule: of the official results: '1x' or '3x'.
        multi_scale_test: whether the box and mask AP are those of several scales merged.
        note: why counting gives another number, if it does; of what the published model may differ
            in, where no count is published.
        unseen: modules of which the published count includes only layers, and not the products of
            two activations (attention, dynamic convolution).
        variants: config options, by name, of other interpretations of the row, also counted.
    """

    table: str
    method: str
    backbone: str
    config: str
    params_m: float | None
    flops_g: float | None
    fps: float | None = None
    crop: int | None = None
    box: float | None = None
    mask: float | None = None
    miou: float | None = None
    miou_single: float | None = None
    schedule: str | None = None
    multi_scale_test: bool = False
    note: str = ""
    unseen: tuple[str, ...] = ()
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The config's stem without the data set: what ``--row`` takes. Rows may share it.

        It begins with ``moby_`` where that pretrained the backbone.
        """
        return ("moby_" if self.table == "moby" else "") + row_name(self.config)

    @property
    def weights(self) -> str | None:
        """URL of the row's trained model; None if it was not released."""
        return (MOBY_WEIGHTS if self.table == "moby" else WEIGHTS).get(self.config)


def row_name(config: str) -> str:
    """A config's stem without its data set."""
    return config.removesuffix("_coco").removesuffix("_ade20k")


_ONLY_LAYERS = "the published count lacks matrix products that are outside of layers"
_WINDOW_12 = {"window 12": {"model.backbone.window_size": 12}}


_CASCADE, _MASK, _V2 = "Cascade Mask R-CNN", "Mask R-CNN", "RepPointsV2"
_2a = partial(Row, "table_2a")
_2b = partial(Row, "table_2b", _CASCADE)
_2c = partial(Row, "table_2c", "HTC++")
_3 = partial(Row, "table_3", crop=512)
_1x = partial(Row, "official_results_not_in_tables", schedule="1x")
_3x = partial(Row, "official_results_not_in_tables", schedule="3x")
_moby = partial(Row, "moby")
# What the paper of V2 has is scores alone.
_BIAS = "the published model has V2's position bias; whether it has the rest of V2 is not said"
_RECIPE = "V2-L's recipe; nothing is published for this backbone"
_SEMI = "10 % of the labels, the teacher counted; published with R-50: 34.7 box"
_v2_1c = partial(Row, "v2_table_1", _CASCADE, params_m=None, flops_g=None, note=_BIAS)
_v2_1u = partial(Row, "v2_table_1", "UperNet", params_m=None, flops_g=None, crop=512, note=_BIAS)
_v2_3 = partial(Row, "v2_table_3", "HTC++", params_m=None, flops_g=None)
_v2_4 = partial(Row, "v2_table_4", "UperNet", params_m=None, flops_g=None, crop=640)
_none = partial(Row, "not_published", params_m=None, flops_g=None, note=_RECIPE)
_SPARSE: Any = {"note": _ONLY_LAYERS, "unseen": ("roi_head",)}
# fmt: off
ROWS: tuple[Row, ...] = (
    _2a(_CASCADE, "R-50", "cascade_r50_coco", 82, 739, 18.0, box=46.3),
    _2a(_CASCADE, "Swin-T", "cascade_swin_t_coco", 86, 745, 15.3, box=50.5),
    _2a("ATSS", "R-50", "atss_r50_coco", 32, 205, 28.3, box=43.5),
    _2a("ATSS", "Swin-T", "atss_swin_t_coco", 36, 215, 22.3, box=47.2),
    _2a(_V2, "R-50", "reppoints_v2_r50_coco", 42, 274, 13.6, box=46.5),
    _2a(_V2, "Swin-T", "reppoints_v2_swin_t_coco", 45, 283, 12.0, box=50.0),
    _2a("Sparse R-CNN", "R-50", "sparse_rcnn_r50_coco", 106, 166, 21.0, box=44.5, **_SPARSE),
    _2a("Sparse R-CNN", "Swin-T", "sparse_rcnn_swin_t_coco", 110, 172, 18.4, box=47.9, **_SPARSE),

    _2b("DeiT-S+deconv", "cascade_deit_s_coco", 80, 889, 10.4, box=48.0, mask=41.4),
    _2b("R-50", "cascade_r50_coco", 82, 739, 18.0, box=46.3, mask=40.1),
    _2b("Swin-T", "cascade_swin_t_coco", 86, 745, 15.3, box=50.5, mask=43.7),
    _2b("X101-32x4d", "cascade_x101_32x4d_coco", 101, 819, 12.8, box=48.1, mask=41.6),
    _2b("Swin-S", "cascade_swin_s_coco", 107, 838, 12.0, box=51.8, mask=44.7),
    _2b("X101-64x4d", "cascade_x101_64x4d_coco", 140, 972, 10.4, box=48.3, mask=41.7),
    _2b("Swin-B", "cascade_swin_b_coco", 145, 982, 11.6, box=51.9, mask=45.0),

    _2c("X101-64x4d", "htc_pp_x101_64x4d_coco", 155, 1033, box=52.3, mask=46.0),
    _2c("Swin-B", "htc_pp_swin_b_coco", 160, 1043, box=56.4, mask=49.1),
    _2c("Swin-L", "htc_pp_swin_l_coco", 284, 1470, box=57.1, mask=49.5),
    _2c("Swin-L", "htc_pp_swin_l_coco", 284, None, box=58.0, mask=50.4, multi_scale_test=True),

    _3("DANet", "R-101", "danet_r101_ade20k", 69, 1119, 15.2, miou=45.2,
       note=_ONLY_LAYERS, unseen=("decode_head.pam",)),
    _3("DeepLabV3+", "R-101", "deeplabv3plus_r101_ade20k", 63, 1021, 16.0, miou=44.1),
    _3("DNL", "R-101", "dnl_r101_ade20k", 69, 1249, 14.8, miou=46.0),
    _3("OCRNet", "R-101", "ocrnet_r101_ade20k", 56, 923, 19.3, miou=45.3),
    _3("UperNet", "R-101", "upernet_r101_ade20k", 86, 1029, 20.1, miou=44.9),
    _3("OCRNet", "HRNet-w48", "ocrnet_hrnet_w48_ade20k", 71, 664, 12.5, miou=45.7),
    _3("DeepLabV3+", "ResNeSt-101", "deeplabv3plus_resnest101_ade20k", 66, 1051, 11.9, miou=46.9),
    _3("DeepLabV3+", "ResNeSt-200", "deeplabv3plus_resnest200_ade20k", 88, 1381, 8.1, miou=48.4),
    _3("SETR", "T-Large (ImageNet-22K)", "setr_t_large_ade20k", 308, None, miou=50.3),
    _3("UperNet", "DeiT-S+deconv", "upernet_deit_s_ade20k", 52, 1099, 16.2, miou=44.0),
    _3("UperNet", "Swin-T", "upernet_swin_t_ade20k", 60, 945, 18.5, miou=46.1, miou_single=44.51),
    _3("UperNet", "Swin-S", "upernet_swin_s_ade20k", 81, 1038, 15.2, miou=49.3, miou_single=47.64),
    _3("UperNet", "Swin-B", "upernet_swin_b_512_ade20k", 121, 1188, miou=49.72, miou_single=48.13),
    _3("UperNet", "Swin-B", "upernet_swin_b_ade20k", 121, 1841, 8.7, miou=51.6, miou_single=50.04,
       crop=640),
    _3("UperNet", "Swin-L", "upernet_swin_l_ade20k", 234, 3230, 6.2, miou=53.5, miou_single=52.05,
       crop=640, variants=_WINDOW_12,
       note="neither window size gives the published count"),

    _1x(_MASK, "Swin-T", "mask_rcnn_swin_t_1x_coco", 48, 267, box=43.7, mask=39.8),
    _3x(_MASK, "Swin-T", "mask_rcnn_swin_t_coco", 48, 267, box=46.0, mask=41.6),
    _3x(_MASK, "Swin-S", "mask_rcnn_swin_s_coco", 69, 359, box=48.5, mask=43.3),
    _1x(_CASCADE, "Swin-T", "cascade_swin_t_1x_coco", 86, 745, box=48.1, mask=41.7),
    _3x(_CASCADE, "Swin-T", "cascade_swin_t_coco", 86, 745, box=50.4, mask=43.7),
    _3x(_CASCADE, "Swin-S", "cascade_swin_s_coco", 107, 838, box=51.9, mask=45.0),
    _3x(_CASCADE, "Swin-B", "cascade_swin_b_coco", 145, 982, box=51.9, mask=45.0),
    _3x(_V2, "Swin-T", "reppoints_v2_swin_t_coco", 45, 283, box=50.0),
    _3x("Mask RepPointsV2", "Swin-T", "mask_reppoints_v2_swin_t_coco", 47, 292, box=50.4,
        mask=43.8),

    _moby(_MASK, "Swin-T", "mask_rcnn_swin_t_1x_coco", 48, 267, box=43.6, mask=39.6, schedule="1x"),
    _moby(_MASK, "Swin-T", "mask_rcnn_swin_t_coco", 48, 267, box=46.0, mask=41.7, schedule="3x"),
    _moby(_CASCADE, "Swin-T", "cascade_swin_t_1x_coco", 86, 745, box=48.1, mask=41.5,
          schedule="1x"),
    _moby(_CASCADE, "Swin-T", "cascade_swin_t_coco", 86, 745, box=50.2, mask=43.5, schedule="3x"),
    _moby("UperNet", "Swin-T", "upernet_swin_t_ade20k", 60, 945, crop=512, miou=45.58,
          miou_single=44.06),

    _v2_1c("SwinV2-T, W16", "cascade_swinv2_t_w16_coco", box=51.1),
    _v2_1c("SwinV2-T, W32", "cascade_swinv2_t_w32_coco", box=51.8),
    _v2_1u("SwinV2-T, W16", "upernet_swinv2_t_w16_ade20k", miou=47.0),
    _v2_1u("SwinV2-T, W20", "upernet_swinv2_t_w20_ade20k", miou=47.7),
    _v2_1u("SwinV2-T, W32", "upernet_swinv2_t_w32_ade20k", miou=47.8),
    _v2_3("SwinV2-L, W32", "htc_pp_swinv2_l_coco", box=58.8, mask=51.1,
          note="the published model may have a global attention layer, as the first version's"),
    _v2_4("SwinV2-L, W40", "upernet_swinv2_l_ade20k", miou=55.9,
          note="the published window of the last stage is not known"),
    _none("HTC++", "SwinV2-B, W32", "htc_pp_swinv2_b_coco"),
    _none("UperNet", "SwinV2-B, W40", "upernet_swinv2_b_ade20k", crop=640),
    _none("Soft Teacher, Faster R-CNN", "Swin-T", "soft_teacher_swin_t_coco", note=_SEMI),
)
# fmt: on


def find_rows(name: str, configs: Path) -> list[Row]:
    """The rows of a name, with or without the data set at its end.

    A config in ``configs`` that is no published row has a row without numbers, in the table
    'not_published'.

    Raises:
        UserError: there is neither row nor config; the message lists the closest names.
    """
    name = row_name(name)
    rows = [row for row in ROWS if row.name == name]
    if rows:
        return rows
    stems = {row_name(path.stem): path.stem for path in configs.glob("*.py")}
    if name in stems:
        return [Row("not_published", "", "", stems[name], None, None)]
    names = sorted({row.name for row in ROWS})
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(close)}?" if close else f"there are {', '.join(names)}"
    raise UserError(f"no row {name!r}; {hint}")
