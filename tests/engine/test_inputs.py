"""What ``tools/predict.py`` takes: files, folders, patterns, lists, URLs."""

from pathlib import Path

import pytest

from swin_dense.engine.images import UnreadableImageError
from swin_dense.engine.inputs import Skipped, Source, find_inputs
from swin_dense.errors import UserError


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    for name in ("b.JPG", "a.png", "notes.txt", ".hidden", "clip.mov", "in/c.jpg", "in/deep/d.jpg"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "images"


def found(*given) -> list[str]:
    return [source.name for source in find_inputs(given)[0]]


def test_folder(folder):
    sources, skipped = find_inputs(folder)
    assert [source.name for source in sources] == ["a.png", "b.JPG", "clip.mov"]
    assert [source.is_video for source in sources] == [False, False, True]
    reasons = {Path(one.given).name: one.reason for one in skipped}
    assert set(reasons) == {"in", "notes.txt"}
    assert reasons["notes.txt"] == "not an image or a video"
    assert "a folder within a folder" in reasons["in"]


def test_several_paths_and_patterns(folder):
    assert found(folder / "in", folder / "a.png") == ["c.jpg", "a.png"]
    assert found("images/**/*.jpg") == ["c.jpg", "d.jpg"]
    assert found("images/a.png", "./images/a.png", "images/*") == ["a.png", "b.JPG", "clip.mov"]
    assert find_inputs("images/*")[1] == [
        Skipped("images/notes.txt", "not an image or a video"),
    ]


def test_lists(folder):
    lines = ["# a comment", "", "in/c.jpg", "images/a.png", "images/*.JPG", "gone.jpg", "l.txt"]
    (folder / "l.txt").write_text("\n".join([*lines, "https://a.b/c.png"]))
    sources, skipped = find_inputs(folder / "l.txt")
    assert [source.name for source in sources] == ["c.jpg", "a.png", "b.JPG", "c.png"]
    assert [source.local(folder) for source in sources[:2]] == [
        folder / "in" / "c.jpg",
        Path("images/a.png"),
    ]
    reasons = {one.given: one.reason for one in skipped}
    assert reasons == {"gone.jpg": "no such file", "l.txt": "a list within a list"}


def test_text_that_is_no_list(folder):
    (folder / "notes.txt").write_text("0 0.5 0.5 0.25 0.25\n")
    sources, (skipped,) = find_inputs([folder / "a.png", folder / "notes.txt"])
    assert len(sources) == 1
    assert "nor a list of them" in skipped.reason
    (folder / "notes.txt").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(UserError, match=r"notes\.txt: not an image or a video, nor a list"):
        find_inputs(folder / "notes.txt")


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("gone", "no such image or folder: gone"),
        ("images/*.bmp", r"no image matches the pattern images/\*\.bmp"),
        ("empty", "empty: no images in this folder"),
        ([], "no image given"),
    ],
)
def test_nothing_found(folder, given, complaint):
    Path("empty").mkdir()
    with pytest.raises(UserError, match=complaint):
        find_inputs(given)


def test_urls(tmp_path, web_folder):
    web, address = web_folder
    (web / "my photo.png").write_bytes(b"bytes")
    (source,), _ = find_inputs(f"{address}/my%20photo.png?size=9")
    assert source.name == "my photo.png"
    assert not source.is_video
    assert source.local(tmp_path).read_bytes() == b"bytes"
    with pytest.raises(UnreadableImageError, match=r"cannot be downloaded .*not found"):
        Source(f"{address}/none.png").local(tmp_path)
