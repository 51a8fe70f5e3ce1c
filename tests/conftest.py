"""Fixtures shared by all tests."""

import contextlib
import functools
import gc
import http.server
import importlib
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import mmengine.config.utils
import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope

import swin_dense  # noqa: F401  (prepares OpenMMLab before any test imports it)
from swin_dense.checkpoints import files
from swin_dense.ops.torch_versions import VERSION, too_old

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in jobs in the background of a script
    signal.signal(signal.SIGINT, signal.default_int_handler)
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the workers already share the cores

REPO = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("SWIN_DENSE_SHARED", REPO.parent / "shared"))


@pytest.fixture(scope="session")
def repo() -> Path:
    return REPO


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real images and golden values, not shipped with the project because of their licences."""
    if not SHARED.is_dir():
        pytest.skip(f"no real data at {SHARED} (set SWIN_DENSE_SHARED)")
    return SHARED


def run_python(*args: str, **env: str) -> str:
    """Output of a new interpreter that can import the modules of tests/; fails if that fails."""
    path = os.pathsep.join(filter(None, [str(REPO / "tests"), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, *args],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="session")
def python() -> Callable[..., str]:
    """See :func:`run_python`."""
    return run_python


# Tests of what needs a later PyTorch than the package, by what is in their names.
_NEEDED = {
    "triton|tuning_interpreted|kernel": (2, 6),
    "test_compile|one_graph|compiled_backbone|custom_functions": (2, 6),
    "export_use": (2, 8),  # torch.compile of 2.6 cannot trace the test's own NamedTuple
    "sharding": (2, 11),
    "tools/test_export": (2, 11),  # others were not tried
    "benchmark|test_counting|test_reproduc": (2, 9),
    r"low_precision\[\w+-dtype0\]|fp16": (2, 2),  # half precision on a CPU
    "makes_few_calls": (2, 4),  # before that, a function of ours asks for autocast
    "imports_wait_for_use": (2, 4),  # before that, PyTorch itself may import transformers
}
# Tests of our own operators; a compiled mmcv brings its own, of which a CPU's build lacks some.
_OF_OUR_OPERATORS = "compat/test_ops|compat/test_box_ops|unsupported_operator|soft_nms_of_mmcv"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a later PyTorch or an mmcv without operators, with that reason."""
    skipped = {pattern: too_old(*version) for pattern, version in _NEEDED.items()}
    if find_spec("mmcv._ext").origin.endswith((".so", ".pyd")):
        skipped[_OF_OUR_OPERATORS] = "mmcv has compiled operators of its own"
    for pattern, reason in skipped.items():
        for item in items if reason else ():
            if re.search(pattern, item.nodeid):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def tool() -> Callable[..., int]:
    """Runs a tool in this process: ``tool("train", config, "--seed", 0)`` is its exit status.

    Trainings write a report, which takes a second, only with ``--report``.
    """
    torch.set_num_threads(1)

    def run(name: str, *args) -> int:
        if name == "train":
            args = ("--no-report", *args)
        module = importlib.import_module(f"swin_dense_cli.{name}")
        return module.main([str(a) for a in args])

    return run


@pytest.fixture(scope="session")
def interpreted() -> Callable[..., None]:
    """Runs test files in a process where Triton interprets kernels."""
    if find_spec("triton") and VERSION < (2, 11) and np.lib.NumpyVersion(np.__version__) >= "2.4.0":
        pytest.skip("Triton's interpreter does not work with this numpy before PyTorch 2.11")

    def run(*tests: Path) -> None:
        call = ["-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist"]
        call += ["-p", "quick_interpreter", *map(str, tests)]
        assert "passed" in run_python(*call, TRITON_INTERPRET="1")

    return run


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="session")
def browser(tmp_path_factory) -> Callable[..., str]:
    """Runs a headless browser on a page, with more flags of it; returns its output."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    flags += [f"--user-data-dir={tmp_path_factory.mktemp('browser')}"]

    def run(page: Path, *more: str) -> str:
        call = [program, *flags, *more, page.absolute().as_uri()]
        done = subprocess.run(call, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    return run


def _send(handler, length: int | None, blocks: Iterator[bytes]) -> None:
    handler.send_response(200)
    if length is not None:
        handler.send_header("Content-Length", str(length))
    handler.end_headers()
    for block in blocks:
        handler.wfile.write(block)


def _drops(handler) -> Iterator[bytes]:
    while not handler.server.ends.wait(0.02):
        yield b"x"


# What is at some paths of web_folder's server, whatever their suffix.
_ODD_ANSWERS = {
    "endless": lambda handler: _send(handler, None, itertools.repeat(bytes(1 << 16))),
    "huge": lambda handler: _send(handler, 1 << 40, iter([b"x"])),
    "slow": lambda handler: _send(handler, 1 << 20, _drops(handler)),
    "silent": lambda handler: handler.server.ends.wait(),
    "broken_off": lambda handler: _send(handler, 1000, iter([bytes(300)])),
}


@pytest.fixture
def web_folder(tmp_path, monkeypatch) -> Iterator[tuple[Path, str]]:
    """A folder and the URL of a local server for it; downloads are cached in another folder.

    Some names are answered badly: see ``_ODD_ANSWERS``; ``/to_file`` redirects to a local file.
    """
    folder = tmp_path / "web"
    folder.mkdir()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_args):
            pass

        def do_GET(self):
            name = Path(self.path).stem
            with contextlib.suppress(ConnectionError):  # the client has had enough
                if name == "to_file":
                    self.send_response(302)
                    self.send_header("Location", (folder / "secret").as_uri())
                    self.end_headers()
                elif name in _ODD_ANSWERS:
                    _ODD_ANSWERS[name](self)
                else:
                    super().do_GET()

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.ends = threading.Event()
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.ends.set()
        server.shutdown()


@pytest.fixture(params=["PyTorch's", "ours"])
def reader(request, monkeypatch) -> None:
    """Who reads checkpoints: PyTorch, or we, as where PyTorch is too old to be safe."""
    if request.param == "PyTorch's" and not files.SAFE_PYTORCH:
        pytest.skip("PyTorch's own reader is safe from 2.10 on")
    monkeypatch.setattr(files, "SAFE_PYTORCH", request.param == "PyTorch's")


@pytest.fixture(scope="session", autouse=True)
def _choices_in_a_folder_of_the_session(tmp_path_factory):
    """What the measurements of swin_dense.ops.autotune chose: never the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWIN_DENSE_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module", autouse=True)
def _leave_modules_out_of_garbage_collections():
    """mmengine collects garbage with each data set, through all that was imported: 0.3 s."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _no_pauses():
    """mmengine sleeps for two seconds whenever a training by iterations has seen all images."""
    loops = importlib.import_module("mmengine.runner.loops")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loops, "time", SimpleNamespace(sleep=lambda _: None))
        yield


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _reset_default_scope():
    """mmengine's runners set a default scope and never reset it."""
    DefaultScope._instance_dict.clear()


@pytest.fixture(scope="session", autouse=True)
def _cache_metafiles():
    """For each ``mmdet::`` in a config, mmengine reads all of mmdet's metafiles: half a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mmengine.config.utils, "load", functools.cache(mmengine.config.utils.load))
        yield
