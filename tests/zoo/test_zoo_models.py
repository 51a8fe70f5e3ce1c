"""Every kind of model in the zoos with our backbone: same feature maps, losses and scores."""

import copy
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample, TrackDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from swin_dense.analysis import parity
from swin_dense.analysis.building import randomize_parameters, without_initialization
from swin_dense.config_tree import mappings

# V3Det's FCOS is missing: its config passes an argument that mmdet 3.3's FPN does not have.
DETECTORS = [
    "ddq/ddq-detr-4scale_swinl_8xb2-30e_coco.py",
    "dino/dino-5scale_swin-l_8xb2-12e_coco.py",
    "dyhead/atss_swin-l-p4-w12_fpn_dyhead_ms-2x_coco.py",
    "glip/glip_atss_swin-t_a_fpn_dyhead_16xb2_ms-2x_funtune_coco.py",
    "grounding_dino/grounding_dino_swin-t_finetune_16xb2_1x_coco.py",
    "mm_grounding_dino/coco/grounding_dino_swin-t_finetune_16xb4_1x_coco.py",
    "mask2former/mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco.py",
    "mask2former/mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco-panoptic.py",
    "mask2former_vis/mask2former_swin-l-p4-w12-384-in21k_8xb2-8e_youtubevis2021.py",
    "maskformer/maskformer_swin-l-p4-w12_64xb1-ms-300e_coco.py",
    "rtmdet/rtmdet_l_swin_b_p6_4xb16-100e_coco.py",
    "swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py",
    "swin/retinanet_swin-t-p4-w7_fpn_1x_coco.py",
    "v3det/cascade_rcnn_swinb_fpn_8x4_sample1e-3_mstrain_v3det_2x.py",
    "v3det/deformable-detr-refine-twostage_swin_16xb2_sample1e-3_v3det_50e.py",
    "v3det/faster_rcnn_swinb_fpn_8x4_sample1e-3_mstrain_v3det_2x.py",
]
SEGMENTORS = [
    "knet/knet-s3_swin-t_upernet_8xb2-adamw-80k_ade20k-512x512.py",
    "mask2former/mask2former_swin-t_8xb2-160k_ade20k-512x512.py",
    "maskformer/maskformer_swin-t_upernet_8xb2-160k_ade20k-512x512.py",
    "swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py",
    "swin/swin-tiny-patch4-window7_upernet_1xb8-20k_levir-256x256.py",
]
HEIGHT, WIDTH = 64, 128  # multiples of the largest stride, as RTMDet requires
WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] . ? , a person car"
EVERY_CONFIG = [("mmdet", name) for name in DETECTORS] + [("mmseg", name) for name in SEGMENTORS]


@pytest.fixture(scope="session")
def language_model(tmp_path_factory) -> str:
    """A folder with a very small BERT, instead of the one that would be downloaded."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("\n".join(WORDS.split()))
    kind = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(kind))
    config = BertConfig(
        vocab_size=len(WORDS.split()),
        hidden_size=768,  # the detectors' projections expect it
        num_hidden_layers=1,
        intermediate_size=64,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return str(folder)


def reduced(package: str, name: str, language_model: str) -> Config:
    """A zoo config with a shallow Swin, few queries, and nothing that must be downloaded."""
    cfg = Config.fromfile(parity.zoo_folder(package) / name)
    backbone = cfg.model.backbone
    backbone.depths = [min(depth, 2) for depth in backbone.depths]
    backbone.pop("init_cfg", None)
    cfg.model.pop("pretrained", None)
    cfg.model.data_preprocessor.pop("batch_augments", None)  # would pad to 1024 x 1024
    for head in mappings(cfg.model):
        if head.get("num_classes") == 13204:  # V3Det's classes take most of the time and memory
            head.num_classes = 20
    if "num_queries" in cfg.model:
        cfg.model.num_queries = 30  # a small image has fewer cells than 900
        cfg.model.test_cfg.max_per_img = 10
    if "language_model" in cfg.model:
        cfg.model.language_model.name = language_model
        cfg.model.language_model.num_layers_of_embedded = 1
        if cfg.model.bbox_head.type == "ATSSVLFusionHead":
            cfg.model.bbox_head.lang_model_name = language_model
        cfg.model.get("encoder", {}).pop("num_cp", None)  # recomputing there needs fairscale
    return cfg


def build(cfg: Config) -> nn.Module:
    """The model, with the same weights for stock Swin and ours."""
    with DefaultScope.overwrite_default_scope(cfg.default_scope), without_initialization():
        model = MODELS.build(copy.deepcopy(cfg.model))  # some models change their config
    randomize_parameters(model)
    return model


def detection_batch(cfg: Config) -> dict[str, Any]:
    """One noisy image with two boxes, masks, a semantic label map and a caption."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, HEIGHT, WIDTH), generator=generator, dtype=torch.uint8)
    boxes = torch.tensor([[8.0, 10.0, 50.0, 44.0], [30.0, 5.0, 90.0, 60.0]])
    masks = np.zeros((2, HEIGHT, WIDTH), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = 1
    instances = InstanceData(
        bboxes=boxes, labels=torch.tensor([0, 1]), masks=BitmapMasks(masks, HEIGHT, WIDTH)
    )
    instances.instances_ids = torch.tensor([0, 1])
    if cfg.model.type == "RTMDet":
        del instances.masks  # its assigner would read them in another format
    sample = DetDataSample(
        metainfo={
            "img_shape": (HEIGHT, WIDTH),
            "ori_shape": (HEIGHT, WIDTH),
            "batch_input_shape": (HEIGHT, WIDTH),
            "scale_factor": (1.0, 1.0),
            "img_id": 0,
        }
    )
    sample.gt_instances = instances
    sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4))
    sample.gt_sem_seg = PixelData(sem_seg=torch.from_numpy(masks[:1]).long())
    if "language_model" in cfg.model:
        sample.text = ("person", "car")
        sample.custom_entities = True
    return {"inputs": [image], "data_samples": [sample]}


def video_batch(cfg: Config) -> dict[str, Any]:
    """A clip of as many frames as the head expects."""
    frame = detection_batch(cfg)
    frames = cfg.model.track_head.num_frames
    samples = [copy.deepcopy(frame["data_samples"][0]) for _ in range(frames)]
    for i, sample in enumerate(samples):
        sample.set_metainfo({"frame_id": i, "ori_video_length": frames})
    track = TrackDataSample(video_data_samples=samples)
    track.set_metainfo({"ori_video_length": frames})
    return {"inputs": [torch.stack(frame["inputs"] * frames)], "data_samples": [track]}


def segmentation_batch(cfg: Config) -> dict[str, Any]:
    """Two noisy images with label maps of two classes."""
    generator = torch.Generator().manual_seed(0)
    channels = cfg.model.backbone.get("in_channels", 3)
    images, samples = [], []
    for i in range(2):
        shape = (channels, HEIGHT, HEIGHT)
        images.append(torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8))
        labels = torch.zeros(1, HEIGHT, HEIGHT, dtype=torch.long)
        labels[:, 10 + i : 40, 20:50] = 1
        shape = {"img_shape": (HEIGHT, HEIGHT), "ori_shape": (HEIGHT, HEIGHT)}
        samples.append(SegDataSample(metainfo=shape, gt_sem_seg=PixelData(data=labels)))
    return {"inputs": images, "data_samples": samples}


def batch_for(cfg: Config) -> dict[str, Any]:
    if cfg.default_scope == "mmseg":
        cfg.model.data_preprocessor.size = (HEIGHT, HEIGHT)
        return segmentation_batch(cfg)
    return video_batch(cfg) if "track_head" in cfg.model else detection_batch(cfg)


@dataclass
class Run:
    """Feature maps of a training step and a prediction, losses by name, what was predicted."""

    maps: list[Tensor]
    losses: dict[str, Tensor]
    predictions: dict[str, list[Tensor]]


def run(cfg: Config) -> Run:
    batch = batch_for(cfg)
    model = build(cfg).train()
    maps: list[Tensor] = []
    model.backbone.register_forward_hook(lambda *call: maps.extend(m.detach() for m in call[2]))
    torch.manual_seed(0)
    np.random.seed(0)
    data = model.data_preprocessor(copy.deepcopy(batch), training=True)
    losses = model(**data, mode="loss")
    model.eval()
    with torch.no_grad():
        data = model.data_preprocessor(copy.deepcopy(batch), training=False)
        results = model(**data, mode="predict")
    found: dict[str, list[Tensor]] = {}
    for result in results:
        collect(result, "", found)
    return Run(maps, losses, found)


def collect(node: Any, name: str, found: dict[str, list[Tensor]]) -> None:
    """Collect all tensors and arrays of a data sample by their dotted names."""
    if isinstance(node, Tensor | np.ndarray):
        found.setdefault(name, []).append(torch.as_tensor(node))
    elif hasattr(node, "items"):
        for key, value in node.items():
            collect(value, f"{name}.{key}", found)
    elif isinstance(node, list | tuple):
        for value in node:
            collect(value, name, found)


def total(losses: Any) -> Tensor:
    """The sum of a loss or of a list of them."""
    return torch.stack([torch.as_tensor(loss).float().sum() for loss in losses]).sum()


@pytest.mark.parametrize(("package", "name"), EVERY_CONFIG)
@pytest.mark.filterwarnings("ignore")  # warnings of the zoo's models
def test_same_losses_and_predictions(package, name, language_model):
    cfg = reduced(package, name, language_model)
    theirs, ours = run(cfg), run(parity.with_our_backbone(cfg))
    assert len(theirs.maps) == len(ours.maps) > 0
    assert parity.largest_error(theirs.maps, ours.maps) <= 1e-5  # rounding of float32
    assert ours.losses.keys() == theirs.losses.keys()
    for key, value in theirs.losses.items():
        if "acc" in key:  # counts: rounding decides between equal candidates
            continue
        a, b = (total(x if isinstance(x, list) else [x]) for x in (value, ours.losses[key]))
        # If an object is assigned to one of two equal candidates, the loss has other terms.
        torch.testing.assert_close(b, a, rtol=0.02, atol=1e-3, msg=key)
    assert ours.predictions.keys() == theirs.predictions.keys() != set()
    for key, tensors in theirs.predictions.items():
        if key.endswith("scores"):
            for a, b in zip(tensors, ours.predictions[key], strict=True):
                count = min(len(a), len(b))
                best = [x.flatten().sort(descending=True).values[:count] for x in (a, b)]
                torch.testing.assert_close(best[1], best[0], rtol=0.02, atol=1e-3)
