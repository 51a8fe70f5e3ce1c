"""Weight files: cached downloads, and errors with their fix for unreadable files."""

from pathlib import Path

import pytest
import torch

from swin_dense.checkpoints import cached_path, load_checkpoint, local_file
from swin_dense.errors import UserError

pytestmark = pytest.mark.usefixtures("reader")


def test_download_is_cached(tmp_path, web_folder):
    folder, address = web_folder
    cache = tmp_path / "torch_home/hub/checkpoints"
    (folder / "w.pth").write_bytes(b"weights")
    path = local_file(f"{address}/w.pth")
    assert path == cached_path(f"{address}/w.pth")
    assert path.parent == cache
    assert path.read_bytes() == b"weights"
    (folder / "w.pth").unlink()
    assert local_file(f"{address}/w.pth").read_bytes() == b"weights"


def test_files_of_one_name_are_kept_apart(web_folder):
    folder, address = web_folder
    for model in "ab":
        (folder / model).mkdir()
        (folder / model / "model.safetensors").write_text(model)
    for model in "ab":
        assert local_file(f"{address}/{model}/model.safetensors").read_text() == model


def test_official_files_keep_the_names_that_pytorch_gives_them():
    for name in ("swin_tiny_patch4_window7_224.pth", "cascade_mask_rcnn_swin_tiny.pth"):
        url = f"https://github.com/SwinTransformer/storage/releases/download/v1.0.0/{name}"
        assert cached_path(url).name == name


def test_failed_download_names_url_and_cache_file(tmp_path, web_folder):
    _, address = web_folder
    cache = tmp_path / "torch_home/hub/checkpoints"
    with pytest.raises(UserError) as error:
        local_file(f"{address}/none.pth", ", or go without")
    text = str(error.value)
    assert "\n" not in text
    assert "File not found" in text
    place = cached_path(f"{address}/none.pth")
    assert f"download {address}/none.pth elsewhere and put it at {place}" in text
    assert text.endswith(", or go without")
    assert not list(cache.iterdir())


def test_missing_path_raises(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.pth are missing"):
        local_file(str(tmp_path / "nowhere.pth"))


GOOD = {"state_dict": {"w": torch.arange(1000.0)}}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is empty"),
        (b"not a checkpoint " * 50, "not a PyTorch checkpoint"),
        (bytes(range(256)) * 4, "not a PyTorch checkpoint"),
        (b"PK\x03\x04" + bytes(500), "not a PyTorch checkpoint"),
        (b"\n<!DOCTYPE html><html>404</html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
    ],
)
def test_file_that_is_no_checkpoint_raises(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "bad.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=complaint) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("part", [0.01, 0.3, 0.9, 0.999])
def test_truncated_checkpoint_raises(tmp_path: Path, legacy: bool, part: float) -> None:
    path = tmp_path / "cut.pth"
    torch.save(GOOD, path, _use_new_zipfile_serialization=not legacy)
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(UserError, match=r"cut\.pth is cut off"):
        load_checkpoint(path)


def test_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such checkpoint: .*nowhere\.pth"):
        load_checkpoint(tmp_path / "nowhere.pth")
    with pytest.raises(UserError, match=r"cannot read the checkpoint .*directory"):
        load_checkpoint(tmp_path)
    path = tmp_path / "tensor.pth"
    torch.save(torch.ones(2), path)
    with pytest.raises(UserError, match=r"tensor\.pth holds a Tensor"):
        load_checkpoint(path)
    with pytest.raises(UserError, match="unknown device 'gpu'"):
        load_checkpoint(path, map_location="gpu")


def test_open_file_and_map_location(tmp_path: Path) -> None:
    path = tmp_path / "good.pth"
    torch.save(GOOD, path)
    with path.open("rb") as file:
        assert load_checkpoint(file)["state_dict"]["w"].equal(GOOD["state_dict"]["w"])
    assert load_checkpoint(str(path), map_location="meta")["state_dict"]["w"].is_meta
