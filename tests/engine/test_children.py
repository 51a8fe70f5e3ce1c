"""Processes end with those that started them."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

CHILDREN = Path(__file__).parents[2] / "swin_dense" / "engine" / "children.py"
# Without PyTorch, which takes seconds: the module needs the standard library alone.
LOAD = f"import runpy; linked = runpy.run_path({str(CHILDREN)!r})['linked_processes']\n"
FORK = """
import multiprocessing, time
context = multiprocessing.get_context("fork")
ready = context.Event()
def work():
    ready.set()
    time.sleep(60)
with linked():
    child = context.Process(target=work, daemon=True)
    child.start()
    ready.wait()
    print(child.pid, flush=True)
"""


@pytest.fixture
def start():
    started = []

    def run(code: str, **variables: str) -> subprocess.Popen:
        env = {**os.environ, **variables}
        words = [sys.executable, "-c", code]
        started.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=env))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


def is_running(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def ends(pid: int, seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_running(pid)


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel does it on Linux alone")


def test_forked_processes_end_with_a_killed_parent(start):
    parent = start(LOAD + FORK + "    time.sleep(60)")
    child = int(parent.stdout.readline())
    assert is_running(child)
    parent.kill()
    assert ends(child)


def test_forked_processes_leave_signals_to_their_parent(start):
    """A cluster sends them to all processes; the parent decides when its loaders end."""
    parent = start(LOAD + FORK + "    time.sleep(60)")
    child = int(parent.stdout.readline())
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        os.kill(child, number)
    assert not ends(child, 0.3)


def test_parent_can_end_them(start):
    parent = start(LOAD + FORK + "    child.terminate()\n    child.join(20); print(child.exitcode)")
    parent.stdout.readline()
    assert parent.stdout.readline() == "0\n"


def test_processes_of_torchrun_end_with_it(start):
    worker = LOAD + "import os, time\nwith linked():\n"
    worker += "    print(os.getpid(), flush=True); time.sleep(60)"
    agent = start(
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {worker!r}])\ntime.sleep(60)",
        TORCHELASTIC_RUN_ID="none",
    )
    child = int(agent.stdout.readline())
    agent.kill()
    assert ends(child)
