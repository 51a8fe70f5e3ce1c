"""``swin-dense`` and ``tools/``: one command line, parsed before anything heavy is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from swin_dense.benchmarks.compiling import PARTS
from swin_dense.benchmarks.kernel_code import TARGETS as GPUS
from swin_dense.benchmarks.measurement import DTYPES
from swin_dense.checkpoints import TARGETS
from swin_dense.engine.precision import PRECISIONS
from swin_dense.engine.predict_files import FORMATS
from swin_dense_cli import benchmark, convert_checkpoint, main, predict, report, train
from swin_dense_cli.parsing import run_tool

REPO = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "numpy", "mmengine", "mmcv", "mmdet", "mmseg", "rich", "swin_dense")
# Runs both forms of every command with --help; prints their texts and what was imported.
HELP = f"""
import contextlib, io, runpy, sys
from pathlib import Path
from swin_dense_cli.main import COMMANDS, main

def text(call):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        call()
    return out.getvalue()

assert text(lambda: main(['--help'])).count('\\n') > len(COMMANDS)
for name, (module, _) in COMMANDS.items():
    path = Path({str(REPO)!r}, 'tools', module + '.py')
    sys.argv = [str(path), '--help']
    as_tool = text(lambda: runpy.run_path(str(path), run_name='__main__'))
    as_command = text(lambda: main([name, '--help']))
    assert '--debug' in as_tool
    assert as_tool.split('options:')[1] == as_command.split('options:')[1], name
assert not set({HEAVY!r}) & set(sys.modules), set({HEAVY!r}) & set(sys.modules)
"""


def run(*args: object, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *map(str, args)],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
        check=False,
    )


def test_help_imports_nothing_heavy() -> None:
    done = run("-c", HELP)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_tool_is_a_command() -> None:
    tools = {path.stem for path in (REPO / "tools").glob("*.py")}
    assert tools == {module for module, _ in main.COMMANDS.values()}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "required: COMMAND"),
        (["trian"], "invalid choice: 'trian'"),
        (["train"], "required: config"),
        (["train", "a.py", "--amp", "fp8"], "--amp: invalid choice: 'fp8'"),
        (["test", "a.py", "b.pth", "--cfg-options", "x"], "'x' is not of the form key=value"),
        (["benchmark", "scaling", "--sizes", "a"], "'a' is not of the form 512,1024,2048"),
    ],
)
def test_mistakes_are_one_line(words: list[str], message: str, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main.main(words)
    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in err
    assert err.count("\n") == 1


def test_both_forms_fail_alike(tmp_path: Path) -> None:
    words = ["none.py", "--data-root", tmp_path]
    command = run("-m", "swin_dense_cli", "train", *words, RANK="1")
    tool = run(REPO / "tools" / "train.py", *words)
    assert command.returncode == tool.returncode == 2
    assert command.stderr == tool.stderr == "error: no such config: none.py\n"
    assert tool.stdout == "train none.py: loading PyTorch and OpenMMLab\n"
    assert command.stdout == ""  # another process than the first of a run


def test_announcement_of_a_command_that_needs_no_config(monkeypatch, capsys) -> None:
    monkeypatch.delitem(sys.modules, "swin_dense")  # as before the command imports it
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(SystemExit):
        run_tool(report.make_parser("report"), lambda args: sys.exit(), ["work_dirs/a"])
    assert capsys.readouterr().out == "report: loading PyTorch and OpenMMLab\n"


def test_config_names(tool, capfd, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)  # no repository
    assert tool("train", "cascade_swin_t_coco", "--from-scratch", "--data-root", "data") == 2
    assert "error: no such data root: data" in capfd.readouterr().err
    assert tool("train", "configs/cascade_swin_t_coco.py") == 2
    assert "did you mean cascade_swin_t_coco?" in capfd.readouterr().err
    assert tool("train", "cascade_swin_tt") == 2
    err = capfd.readouterr().err
    assert "no such config: cascade_swin_tt; did you mean cascade_swin_t" in err
    Path("mine.py").write_text("_base_ = 'swin_dense::upernet_swin_t_ade'\n")
    assert tool("train", "mine.py") == 2
    assert "did you mean upernet_swin_t_ade20k" in capfd.readouterr().err


def test_options_are_those_of_the_library() -> None:
    assert train.PRECISIONS == PRECISIONS
    assert tuple(predict.FORMATS) == FORMATS
    assert list(convert_checkpoint.TARGETS) == list(TARGETS)
    assert ",".join(PARTS) == benchmark.PARTS
    assert list(benchmark.DTYPES) == list(DTYPES)
    assert ", ".join(GPUS) == benchmark.GPUS
