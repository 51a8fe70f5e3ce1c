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


def test_weights_are_downloaded_to_the_cache_of_pytorch(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    source = tmp_path / "weights.pth"
    torch.save({"a": torch.ones(1)}, source)

    def download(url, to, **_):
        Path(to).write_bytes(source.read_bytes())

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    found = local_weights("https://x.invalid/weights.pth")
    assert Path(found).parent == tmp_path / "home" / "hub" / "checkpoints"
    assert Path(found).read_bytes() == source.read_bytes()


def test_failed_download_leaves_no_file_and_names_url_and_path(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def fail(url, to, **_):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(UserError) as caught:
        local_weights("https://x.invalid/w.pth")
    message = str(caught.value)
    for part in (
        "no route to host",
        "https://x.invalid/w.pth",
        str(cached_path("https://x.invalid/w.pth")),
    ):
        assert part in message
    assert "--from-scratch" in message
