"""Weights from the web: kept once, found again, and a clear word when they cannot be had."""

import http.server
import threading
from functools import partial

import pytest
import torch

from swin_dense.checkpoints import cached_path, local_file
from swin_dense.errors import UserError


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub/checkpoints"


@pytest.fixture
def server(tmp_path):
    """An HTTP server of one folder on the loopback interface."""
    (tmp_path / "www").mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_args):
            pass

    handler = partial(Quiet, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield tmp_path / "www", f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def test_a_download_is_kept_and_found_again(cache, server):
    folder, address = server
    (folder / "w.pth").write_bytes(b"weights")
    path = local_file(f"{address}/w.pth")
    assert path == cached_path(f"{address}/w.pth") == cache / "w.pth"
    assert path.read_bytes() == b"weights"
    (folder / "w.pth").unlink()
    assert local_file(f"{address}/w.pth").read_bytes() == b"weights"


def test_a_failed_download_says_what_to_put_where(cache, server):
    _, address = server
    with pytest.raises(UserError) as error:
        local_file(f"{address}/none.pth", ", or go without")
    text = str(error.value)
    assert "\n" not in text
    assert "File not found" in text
    assert f"download {address}/none.pth elsewhere and put it at {cache / 'none.pth'}" in text
    assert text.endswith(", or go without")
    assert not list(cache.iterdir())


def test_a_missing_path_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.pth are missing"):
        local_file(str(tmp_path / "nowhere.pth"))
