"""``python -m swin_dense SCRIPT``: a script runs as Python runs it, on operators of ours."""

import subprocess
import sys
from pathlib import Path

import pytest

from swin_dense.__main__ import main

SHOW = """
import __main__, sys
from pathlib import Path
import mmcv.ops  # before anything else: mmcv-lite alone could not
import beside
print(sys.argv[1:], Path(sys.argv[0]).name, __name__, __main__.__file__ == __file__ == sys.argv[0])
print(Path(sys.path[0]).name, str(Path.cwd()) in sys.path, __main__.SHOW_ME)
"""


def run(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess:
    command = [sys.executable, "-W", "ignore", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


def test_script_sees_what_python_gives_it(tmp_path: Path) -> None:
    folder = tmp_path / "tools"
    folder.mkdir()
    (folder / "beside.py").touch()
    (folder / "show.py").write_text(f"SHOW_ME = 7\n{SHOW}\nsys.exit(3)\n")
    done = run("-m", "swin_dense", "tools/show.py", "--flag", "a b", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert done.stdout == "['--flag', 'a b'] show.py __main__ True\ntools False 7\n"


def test_mmdets_own_script_with_a_base_of_ours(tmp_path: Path) -> None:
    """It imports mmdet's operators before it reads a config, and gets as far as the data."""
    mmdet = pytest.importorskip("mmdet")
    script = Path(mmdet.__file__).parent / ".mim" / "tools" / "test.py"
    config = tmp_path / "mine.py"
    config.write_text("_base_ = 'swin_dense::cascade_swin_nano_shapes'\n")
    words = [config, tmp_path / "none.pth", "--work-dir", tmp_path / "w"]
    done = run("-m", "swin_dense", script, *words, cwd=tmp_path)
    assert done.returncode != 0
    assert "annotations/instances_val2017.json" in done.stderr, done.stderr[-3000:]


@pytest.mark.parametrize(
    ("words", "message"), [([], "usage: "), (["none.py"], "error: no such script: none.py\n")]
)
def test_mistakes(words: list[str], message: str, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["swin_dense", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert message in "".join(capsys.readouterr())
