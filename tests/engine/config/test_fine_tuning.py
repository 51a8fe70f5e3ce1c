"""``--weights``: which file a training starts from."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from swin_dense.checkpoints import cached_path
from swin_dense.checkpoints.released import MOBY_WEIGHTS, WEIGHTS
from swin_dense.engine.config.fine_tuning import start_from
from swin_dense.engine.config.load import read_config
from swin_dense.engine.config.prepare import RunOptions, TrainingOptions, prepare_training
from swin_dense.engine.config.pretrained import ensure_pretrained
from swin_dense.errors import UserError

DETECTOR = Path(__file__).parents[2] / "tools" / "tiny_detector.py"


@pytest.fixture
def own(tmp_path):
    """Writes a user's config and reads it."""

    def read(base: str, more: str = ""):
        path = tmp_path / "my_data.py"
        path.write_text(f"_base_ = [{base!r}]\n{more}\n")
        return read_config(path)

    return read


def started(cfg, weights) -> str:
    start_from(cfg, str(weights))
    assert cfg.model.backbone.get("init_cfg") is None, "they are in place of all others"
    return cfg.load_from


def test_what_was_released_for_a_config(own, capsys):
    cfg = own("swin_dense::mask_rcnn_swin_t_1x_coco")
    assert started(cfg, "coco") == WEIGHTS["mask_rcnn_swin_t_1x_coco"]
    assert "released for mask_rcnn_swin_t_1x_coco" in capsys.readouterr().out
    cfg = own("swin_dense::upernet_swin_s_ade20k", "model = dict(decode_head=dict(num_classes=3))")
    assert started(cfg, "ade20k") == WEIGHTS["upernet_swin_s_ade20k"]


@pytest.mark.skipif(find_spec("mmdet") is None, reason="mmdet is not installed")
def test_what_a_zoo_released_for_a_config(own):
    name = "mask-rcnn_swin-s-p4-w7_fpn_amp-ms-crop-3x_coco"
    ours = "model = dict(backbone=dict(type='swin_dense.SwinTransformer'))"
    url = started(own(f"mmdet::swin/{name}.py", ours), "coco")
    assert url.startswith("https://download.openmmlab.com/mmdetection/")
    assert "swin-s" in url
    assert started(own("swin_dense::cascade_swin_t_coco"), name) == url


@pytest.mark.parametrize(
    ("base", "more", "weights", "words"),
    [
        ("mask_rcnn_swin_t_1x_coco", "", "ade20k", "are of coco: give --weights coco"),
        ("upernet_swin_l_ade20k", "", "ade20k", "none were released .* there are upernet_swin_t"),
        (
            "mask_rcnn_swin_t_coco",
            "model = dict(backbone=dict(depths=(2, 2, 18, 2)))",
            "coco",
            "none were released for my_data .*, with this backbone",
        ),
        ("mask_rcnn_swin_t_coco", "", "cocoo", "did you mean coco"),
        ("mask_rcnn_swin_t_coco", "", "cascade_swin_x", "did you mean .*cascade_swin_s_coco"),
        ("mask_rcnn_swin_t_coco", "", "none/w.pth", "no such file"),
    ],
)
def test_weights_that_there_are_not(own, base, more, weights, words):
    with pytest.raises(UserError, match=words):
        start_from(own(f"swin_dense::{base}", more), weights)


def test_names_files_folders_and_urls(own, tmp_path):
    cfg = own("swin_dense::cascade_swin_t_coco")
    assert started(cfg, "cascade_swin_t") == WEIGHTS["cascade_swin_t_coco"]
    assert started(cfg, "moby_cascade_swin_t") == MOBY_WEIGHTS["cascade_swin_t_coco"]
    assert started(cfg, "https://example.org/w.pth") == "https://example.org/w.pth"
    file = tmp_path / "best.pth"
    torch.save({}, file)
    assert started(cfg, file) == started(cfg, tmp_path) == str(file)


def test_a_run_that_is_resumed_has_its_own_weights(tmp_path):
    run = RunOptions(work_dir=tmp_path, device="cpu")
    options = TrainingOptions(weights="https://nowhere.invalid/w.pth", resume="auto")
    assert prepare_training(DETECTOR, run, options).load_from == options.weights
    torch.save({"meta": {"iter": 3}, "optimizer": {}}, tmp_path / "epoch_3.pth")
    assert prepare_training(DETECTOR, run, options).load_from == str(tmp_path / "epoch_3.pth")
    with pytest.raises(UserError, match="--weights and --from-scratch exclude each other"):
        prepare_training(DETECTOR, run, TrainingOptions(weights="coco", from_scratch=True))


def test_without_a_network_it_says_which_file_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = "https://nowhere.invalid/w.pth"
    run = RunOptions(work_dir=tmp_path, device="cpu")
    cfg = prepare_training(DETECTOR, run, TrainingOptions(weights=url))
    with pytest.raises(UserError) as caught:
        ensure_pretrained(cfg)
    assert str(caught.value).endswith(f"download {url} elsewhere and put it at {cached_path(url)}")
