"""The backbone's weights are found in any container and below any prefix; EMA is preferred."""

import pytest
import torch
from mmengine.runner.checkpoint import load_checkpoint as mmengine_load

from swin_dense import SwinTransformer
from swin_dense.checkpoints import TARGETS, convert, find_backbone, weights_of
from swin_dense.checkpoints.files import strip_prefixes

SMALL = {"embed_dims": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2), "window_size": 3}


def random_model():
    model = SwinTransformer(**SMALL).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model


def prefixed(prefix, state):
    return {prefix + key: value for key, value in state.items()}


def other(state):
    """Weights that must not be taken."""
    return {key: value + 1 for key, value in state.items()}


OTHERS = {"neck.w": torch.ones(1), "decode_head.conv_seg.weight": torch.ones(2)}
CONTAINERS = {
    "bare": lambda s: s,
    "model": lambda s: {"model": s, "epoch": 3, "optimizer": {"state": {}}},
    "state_dict": lambda s: {"state_dict": s, "meta": {}},
    "model_state_dict": lambda s: {"model_state_dict": s},
    "model in state_dict": lambda s: {"state_dict": {"model": s}},
    "data parallel": lambda s: {"state_dict": prefixed("module.", s)},
    "detector": lambda s: {"state_dict": prefixed("backbone.", s) | OTHERS},
    "data parallel detector": lambda s: {"state_dict": prefixed("module.backbone.", s) | OTHERS},
    "SimMIM": lambda s: {"model": prefixed("encoder.", s) | {"decoder.0.weight": torch.ones(1)}},
    "MoBY": lambda s: {
        "model": prefixed("module.encoder.", s) | prefixed("module.encoder_k.", other(s))
    },
    "Lightning": lambda s: {"state_dict": prefixed("model.", s), "hparams": {}},
    "Mask2Former": lambda s: prefixed("model.pixel_level_module.encoder.", s) | OTHERS,
    "unknown prefix": lambda s: {"state_dict": prefixed("net.vision.trunk.", s) | OTHERS},
    "timm EMA": lambda s: {"state_dict": other(s), "state_dict_ema": s},
    "model_ema": lambda s: {"model": other(s), "model_ema": s},
    "mmengine EMA": lambda s: {  # its state_dict already has the averages
        "state_dict": prefixed("backbone.", s),
        "ema_state_dict": prefixed("module.backbone.", other(s)) | {"steps": torch.tensor(3)},
    },
    "EMA alone": lambda s: {"ema_state_dict": prefixed("module.backbone.", s)},
    "Soft Teacher": lambda s: {
        "state_dict": prefixed("student.backbone.", other(s))
        | {"student.neck.w": torch.zeros(1)}
        | prefixed("teacher.backbone.", s)
        | {"teacher.neck.w": torch.ones(1)}
    },
    "student and teacher": lambda s: {"student": other(s), "teacher": s, "epoch": 3},
}


@pytest.mark.parametrize("layout", TARGETS)
@pytest.mark.parametrize("container", CONTAINERS)
def test_backbone_is_found_in_any_container(container, layout):
    source = random_model().state_dict()
    found = find_backbone(weights_of(CONTAINERS[container](convert(source, layout).state)))
    assert found.layout is TARGETS[layout]
    state = found.layout.to_openmmlab(found.state)
    parameters = {k for k in source if not k.endswith("index")}
    assert parameters <= state.keys()
    assert all(torch.equal(state[key], source[key]) for key in parameters)


@pytest.mark.parametrize("container", ["bare", "model", "data parallel detector", "timm EMA"])
def test_init_cfg_accepts_any_container(tmp_path, container):
    source = random_model()
    torch.save(CONTAINERS[container](convert(source.state_dict(), "hf").state), tmp_path / "w.pth")
    init_cfg = {"type": "Pretrained", "checkpoint": str(tmp_path / "w.pth")}
    model = SwinTransformer(**SMALL, init_cfg=init_cfg)
    model.init_weights()
    for name, parameter in source.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name))


def test_safetensors_files(tmp_path):
    from safetensors.torch import save_file

    source = random_model()
    state = {k: v.clone() for k, v in convert(source.state_dict(), "torchvision").state.items()}
    file = str(tmp_path / "w.safetensors")
    save_file(state, file)
    ours = SwinTransformer(**SMALL, init_cfg={"type": "Pretrained", "checkpoint": file})
    ours.init_weights()
    by_mmengine = SwinTransformer(**SMALL)
    mmengine_load(by_mmengine, file, map_location="cpu")
    for name, parameter in source.named_parameters():
        assert torch.equal(parameter, ours.get_parameter(name))
        assert torch.equal(parameter, by_mmengine.get_parameter(name))


def test_usual_prefixes_are_stripped_from_other_models():
    state = {"module.backbone.conv1.weight": torch.ones(1), "module.neck.w": torch.ones(1)}
    weights = weights_of({"state_dict": state, "epoch": 3})
    assert list(strip_prefixes(weights)) == ["conv1.weight"]
    assert list(strip_prefixes(weights_of({"a": torch.ones(1), "epoch": 3}))) == ["a"]


def test_conversion_takes_the_teacher_alone():
    source = random_model().state_dict()
    converted = convert(CONTAINERS["Soft Teacher"](source), "official")
    assert torch.equal(converted.state["neck.w"], torch.ones(1))
    assert not [name for name in converted.state if "student" in name or "teacher" in name]
    assert "student.neck.w" in converted.dropped
