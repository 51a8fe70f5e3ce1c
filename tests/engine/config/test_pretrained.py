"""A config's pretrained weights: listing, removing and downloading them."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from swin_dense.engine.config.pretrained import (
    cached_path,
    drop_pretrained,
    ensure_pretrained,
    local_weights,
    pretrained_files,
)
from swin_dense.errors import UserError

MODEL = """
model = dict(
    pretrained='torchvision://resnet50',
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='https://x.invalid/a/b.pth?raw=1')),
    head=dict(init_cfg=[dict(type='Normal', std=1.0),
                        dict(type='mmengine.Pretrained', checkpoint='c.pth')]),
    neck=dict(init_cfg=dict(type='Xavier')))
load_from = 'd.pth'
"""


def test_pretrained_weights_are_listed_and_removed():
    cfg = Config.fromstring(MODEL, ".py")
    assert pretrained_files(cfg) == [
        "torchvision://resnet50",
        "https://x.invalid/a/b.pth?raw=1",
        "c.pth",
        "d.pth",
    ]
    drop_pretrained(cfg)
    assert pretrained_files(cfg) == []
    assert cfg.model.neck.init_cfg == {"type": "Xavier"}
    assert cfg.model.head.init_cfg == [{"type": "Normal", "std": 1.0}]


def test_cached_weights_are_not_downloaded(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = "https://x.invalid/a/b.pth?raw=1"
    path = cached_path(url)
    assert path.parent == Path(torch.hub.get_dir()) / "checkpoints"
    path.parent.mkdir(parents=True)
    path.touch()
    assert local_weights(url) == str(path)
    ensure_pretrained(Config({"model": {"init_cfg": {"type": "Pretrained", "checkpoint": url}}}))


def test_weights_are_downloaded_to_the_cache_of_pytorch(tmp_path, web_folder, capsys):
    folder, address = web_folder
    torch.save({"a": torch.ones(1)}, folder / "weights.pth")
    url = f"{address}/weights.pth"
    found = local_weights(url)
    assert Path(found).parent == tmp_path / "torch_home" / "hub" / "checkpoints"
    assert Path(found).read_bytes() == (folder / "weights.pth").read_bytes()
    assert capsys.readouterr().out == f"downloading {url}\n"
    assert local_weights(url) == found
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("name", "reason"), [("broken_off", "broke off"), ("none", "not found")])
def test_failed_download_leaves_no_file_and_names_url_and_path(name, reason, web_folder):
    """A part of a checkpoint would be taken for the whole one ever after."""
    url = f"{web_folder[1]}/{name}.pth"
    with pytest.raises(UserError) as caught:
        local_weights(url)
    message = str(caught.value)
    for part in (reason, f"download {url} elsewhere and put it at {cached_path(url)}"):
        assert part in message
    assert "--from-scratch" in message
    assert not list(cached_path(url).parent.iterdir())
    cached_path(url).write_bytes(b"from elsewhere")
    assert local_weights(url) == str(cached_path(url))
