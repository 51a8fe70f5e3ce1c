"""Files are written whole or not at all."""

import errno
import json
import os
import subprocess
import sys

import pytest

from swin_dense import files
from swin_dense.files import link_file, remove_parts, replace_file, write_json


def test_json_is_written_alone(tmp_path):
    write_json(tmp_path / "m.json", {"a": [1, 2]})
    assert json.loads((tmp_path / "m.json").read_text()) == {"a": [1, 2]}
    assert os.listdir(tmp_path) == ["m.json"]


def test_a_folder_that_is_gone_is_not_made_again(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        write_json(tmp_path / "gone/m.json", {})
    assert caught.value.filename == str(tmp_path / "gone/m.json")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left")])
def test_what_fails_leaves_the_file_as_it_was(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail() -> None:
        with replace_file(path) as file:
            file.write(b"ne")
            raise error

    with pytest.raises(type(error)) as caught:
        fail()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]
    if isinstance(error, OSError):
        assert caught.value.filename == str(path)


def test_a_killed_process_leaves_a_part_that_can_be_removed(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    code = "import os, runpy, sys; replace_file = runpy.run_path(sys.argv[1])['replace_file']\n"
    code += "with replace_file(sys.argv[2]) as file: file.write(b'ne'); os.kill(os.getpid(), 9)"
    words = [sys.executable, "-c", code, files.__file__, str(path)]  # without PyTorch
    assert subprocess.run(words, check=False).returncode == -9
    assert path.read_text() == "old"
    assert len(os.listdir(tmp_path)) == 2
    remove_parts(tmp_path)
    assert os.listdir(tmp_path) == ["a.txt"]


def test_what_cannot_be_written_is_named(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError, match="directory") as caught, replace_file(tmp_path / "a"):
        pass
    assert caught.value.filename == str(tmp_path / "a")


def test_a_link_has_the_name_only_and_is_replaced(tmp_path):
    for name in ("epoch_1.pth", "epoch_2.pth"):
        (tmp_path / name).write_text(name)
        link_file(tmp_path / name, tmp_path / "last.pth")
    assert os.readlink(tmp_path / "last.pth") == "epoch_2.pth"
    assert len(os.listdir(tmp_path)) == 3
