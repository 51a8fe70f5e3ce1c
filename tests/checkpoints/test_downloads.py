"""Downloads: the whole file or nothing, from servers that are slow, broken or endless."""

import re
import signal
import socket
import time

import pytest

from swin_dense.checkpoints import download, downloads

LIMITS = {"most_bytes": 1 << 20, "most_seconds": 0.3}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("endless", "it has more than 1 MiB"),
        ("huge", "it has more than 1 MiB"),
        ("slow", "it takes more than 0.3 s"),
        ("silent", "the server does not answer"),
        ("broken_off", "the connection broke off after 300 of 1,000 bytes"),
        ("missing", "HTTP Error 404: File not found"),
        ("to_file", "HTTP Error 302.*Redirection to url 'file:.*' is not allowed"),
    ],
)
def test_servers_that_fail(name, reason, web_folder, tmp_path):
    folder, address = web_folder
    (folder / "secret").write_text("of this machine")
    start = time.monotonic()
    with pytest.raises(OSError, match=reason) as caught:
        download(f"{address}/{name}.jpg", tmp_path / "got" / "a.jpg", **LIMITS)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 5
    assert not list((tmp_path / "got").iterdir())


def test_what_was_there_stays(web_folder, tmp_path):
    path = tmp_path / "a.jpg"
    path.write_text("whole")
    with pytest.raises(OSError, match="broke off"):
        download(f"{web_folder[1]}/broken_off.jpg", path)
    assert path.read_text() == "whole"


def test_nothing_is_left_after_ctrl_c(web_folder, tmp_path):
    def interrupted(done, total):
        assert list(tmp_path.glob("got/.*.part"))
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        download(f"{web_folder[1]}/slow.pth", tmp_path / "got" / "w.pth", on_progress=interrupted)
    assert not list((tmp_path / "got").iterdir())


def test_progress_and_names(web_folder, tmp_path):
    """An address may have spaces and letters beyond ASCII, as browsers show it."""
    folder, address = web_folder
    (folder / "a photo 日.jpg").write_bytes(bytes(700_000))
    seen = []
    for name in ("a photo 日.jpg", "a%20photo%20%E6%97%A5.jpg"):
        download(
            f"{address}/{name}?size=1#x", tmp_path / "a.jpg", on_progress=lambda *x: seen.append(x)
        )
        assert (tmp_path / "a.jpg").stat().st_size == 700_000
    assert seen[-1] == (700_000, 700_000)
    assert len(seen) > 2


def test_a_server_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(OSError, match="Connection refused"):
        download(f"http://127.0.0.1:{port}/a.jpg", tmp_path / "a.jpg")


def test_a_disk_that_is_full(web_folder, tmp_path, monkeypatch):
    (web_folder[0] / "a.jpg").write_bytes(bytes(10))

    def full(path):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(downloads, "replace_file", full)
    with pytest.raises(OSError, match=re.escape(f"No space left on device: '{tmp_path / 'b'}'")):
        download(f"{web_folder[1]}/a.jpg", tmp_path / "b")
