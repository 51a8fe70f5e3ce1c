"""Fixtures: the tools as functions, a tiny data set, and tiny models trained on it once."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import mmengine.config.config
import pytest

from swin_dense.datasets.shapes import ShapesSpec, write_shapes

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _configs_as_they_are(monkeypatch) -> None:
    """Formatting one takes as long as a tiny training; only those of ``trained`` are formatted."""
    as_it_is = {"name": "FormatCode", "value": lambda text, **_: (text, False)}
    monkeypatch.setattr(mmengine.config.config, **as_it_is, raising=False)


@pytest.fixture
def failure(tool, capfd, tmp_path, monkeypatch) -> Callable[..., str]:
    """Runs a tool in an empty folder; it must fail, and its one-line error message is returned."""
    monkeypatch.chdir(tmp_path)

    def run(*args) -> str:
        try:
            status = tool(*args)
        except SystemExit as stop:  # argparse
            status = stop.code
        err = capfd.readouterr().err
        assert status == 2
        assert err.startswith("error: ")
        assert err.count("\n") == 1, err
        assert "Traceback" not in err
        return err

    return run


@pytest.fixture(scope="session")
def shapes_root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data") / "tiny"
    write_shapes(root, ShapesSpec(train=8, val=4, size=64))
    return root


@pytest.fixture(scope="session", params=["detector", "segmentor"])
def trained(request, tool, shapes_root, tmp_path_factory) -> SimpleNamespace:
    """A tiny model after a few iterations: its config, checkpoint, work dir and data."""
    config = HERE / f"tiny_{request.param}.py"
    work_dir = tmp_path_factory.mktemp(request.param)
    flags = ["--data-root", shapes_root, "--work-dir", work_dir, "--from-scratch", "--seed", 0]
    assert tool("train", config, *flags, "--report") == 0
    name = Path((work_dir / "last_checkpoint").read_text()).name
    return SimpleNamespace(
        kind=request.param,
        config=config,
        work_dir=work_dir,
        checkpoint=work_dir / name,
        data_root=shapes_root,
    )
