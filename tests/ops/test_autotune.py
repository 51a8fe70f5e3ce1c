"""Choices by measurement: candidates that are wrong, fail or are slow; what is kept; one job."""

import json
import logging
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from swin_dense.ops import autotune
from swin_dense.ops.autotune import Candidate, Race

X = torch.linspace(-2, 2, 40, dtype=torch.float64)


class Clock:
    """Time passes only while candidates run."""

    now = 0.0

    def __call__(self):
        return self.now


clock = Clock()


def square(x, error=0.0, gradient_error=0.0):
    """x**2 and its gradient, either perhaps wrong."""
    x = x.detach().requires_grad_()
    out = x * x * (1 + error)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    return [out.detach(), gradient * (1 + gradient_error)]


def candidate(name, seconds=0.002, runs=None, **options):
    """Right, and as slow as it says; ``runs`` collects the names of those that ran."""

    def step():
        if runs is not None:
            runs.append(name)
        clock.now += seconds

    values = {"check": lambda: square(X.float()), "step": step} | options
    return Candidate(name, **values)


def race(*others, **options):
    candidates = [candidate("plain", 0.004), *others]
    values = {
        "what": "squares",
        "key": {"device": {"name": "this"}, "channels": 8},
        "candidates": candidates,
        "exact": lambda: square(X),
        "trusted": "plain",
        "fixed": "plain",
        "device": torch.device("cpu"),
        "seconds": 0.2,
    }
    return Race(**values | options)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty cache folder, and nothing in memory."""
    monkeypatch.setenv("SWIN_DENSE_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("SWIN_DENSE_AUTOTUNE", raising=False)
    monkeypatch.setattr(autotune, "perf_counter", clock)
    autotune.forget()
    yield tmp_path / "autotune"
    autotune.forget()


@pytest.fixture
def messages(caplog):
    caplog.set_level(logging.DEBUG, logger=autotune.__name__)
    return lambda level: [r.getMessage() for r in caplog.records if r.levelno == level]


def failing(error):
    def function(*_):
        raise error

    return function


_BIG = candidate("big", check=failing(MemoryError()))


def test_fastest_is_chosen_once_and_found_again(folder):
    runs = []
    contest = race(candidate("fast", 0.001, runs), candidate("slow", 0.008))
    assert autotune.choose(contest) == "fast"
    assert autotune.choose(contest) == "fast"
    measured = len(runs)
    assert measured > 1
    autotune.forget()  # as a new process
    assert autotune.choose(contest) == "fast"
    assert len(runs) == measured
    (file,) = folder.iterdir()
    record = json.loads(file.read_text())
    assert record["winner"] == "fast"
    assert record["ms"]["fast"] < record["ms"]["plain"] < record["ms"]["slow"]


def test_handicap_decides_between_equals():
    assert autotune.choose(race(candidate("new", 0.004, handicap=1.5))) == "plain"
    autotune.forget()
    better = race(candidate("new", 0.001, handicap=1.5), key={"another": 1})
    assert autotune.choose(better) == "new"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"check": lambda: square(X.float(), error=1e-3)}, "wrong by 0.001"),
        ({"check": lambda: square(X.float(), gradient_error=1e-3)}, "wrong by 0.001"),
        ({"check": lambda: square(X.float() * torch.nan)}, "wrong by nan"),
        ({"check": lambda: square(X.float())[:1]}, "wrong by inf"),
        ({"check": failing(ValueError("no such kernel\nand more"))}, "ValueError: no such kernel"),
        ({"step": failing(RuntimeError("crash"))}, "RuntimeError: crash"),
    ],
    ids=["values", "gradients only", "NaN", "a result missing", "crash in check", "crash"],
)
def test_wrong_and_failing_candidates_are_left_out(options, reason, messages, folder):
    """Although they would be the fastest."""
    contest = race(candidate("bad", 0.0, **options), candidate("good", 0.001))
    assert autotune.choose(contest) == "good"
    (warning,) = messages(logging.WARNING)
    assert warning.startswith(f"squares: bad is left out: {reason}")
    (file,) = folder.iterdir()
    assert "bad" not in json.loads(file.read_text())["ms"]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("where", ["check", "step"])
def test_lack_of_memory_is_not_kept_in_the_file(error, where, messages, folder):
    contest = race(candidate("big", 0.0, **{where: failing(error)}), candidate("good", 0.001))
    assert autotune.choose(contest) == "good"
    assert messages(logging.WARNING) == ["squares: big is left out: out of memory"]
    assert not list(folder.iterdir())
    fitting = race(candidate("big", 0.0), candidate("good", 0.001))
    assert autotune.choose(fitting) == "good"  # in memory it is kept
    autotune.forget()
    assert autotune.choose(fitting) == "big"


@pytest.mark.parametrize(("compiles", "expected"), [(False, 1), (True, 2)])
def test_very_slow_candidate_is_not_run_again(compiles, expected):
    """Once more if the first run may have compiled."""
    runs = []
    contest = race(candidate("slow", 0.3, runs, compiles=compiles), candidate("good", 0.001))
    assert autotune.choose(contest) == "good"
    assert len(runs) == expected


def test_time_is_limited():
    """Of the timed runs; before them, every candidate runs twice."""
    runs = []
    contest = race(candidate("a", 0.03, runs), candidate("b", 0.03, runs))
    result = autotune.measure(contest)
    assert result.ms.keys() == {"plain", "a", "b"}
    assert len(runs) == 4 + 4  # of 0.2 seconds, 0.128 in two rounds


def test_hopeless_candidates_do_not_take_the_time_of_the_others():
    runs = []
    autotune.measure(race(candidate("slow", 0.02, runs), candidate("fast", 0.004, runs)))
    assert runs.count("slow") == 4  # twice before the rounds, and in two of them
    assert runs.count("fast") == 2 + 15


def test_nothing_is_chosen_if_nothing_is_right(messages, folder):
    contest = race(fixed="other", exact=failing(ValueError("no")))
    assert autotune.choose(contest) == "other"
    assert messages(logging.WARNING) == ["squares: the exact result is left out: ValueError: no"]
    assert not list(folder.iterdir())


def test_caller_is_not_disturbed():
    """Random numbers, autocast, inference mode, hooks of saved tensors, modes, default device."""
    seen = []

    def check():
        seen.append((torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")))
        torch.rand(3)
        return square(X.float())

    pack = failing(AssertionError("a hook of the caller saw it"))
    state = torch.get_rng_state()
    with (
        torch.inference_mode(),
        torch.autocast("cpu", torch.bfloat16),
        torch.autograd.graph.saved_tensors_hooks(pack, pack),
        torch.device("meta"),
    ):
        result = autotune.measure(race(candidate("new", check=check)))
    assert not result.left_out
    assert seen == [(True, False)]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("change", ["deterministic", "capture", "variable"])
def test_fixed_choice_where_nothing_may_be_measured(change, monkeypatch, folder):
    runs = []
    contest = race(candidate("fast", 0.0, runs))
    with monkeypatch.context() as patch:
        if change == "deterministic":
            patch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
        elif change == "capture":
            patch.setattr(autotune, "is_capturing", lambda: True)
        else:
            patch.setenv("SWIN_DENSE_AUTOTUNE", "0")
        assert autotune.choose(contest) == "plain"
    assert not runs
    assert not folder.exists()
    assert autotune.choose(contest) == "fast"  # it is not kept


def test_nothing_is_measured_while_pytorch_traces():
    runs = []
    contest = race(candidate("fast", 0.0, runs))

    def function(x):
        return x + int(autotune.choose(contest) == "plain")

    assert torch.compile(function, backend="eager", fullgraph=True)(X).equal(X + 1)
    assert torch.jit.trace(function, X, check_trace=False)(X).equal(X + 1)
    assert not runs


def test_unusable_files_are_as_if_absent(folder):
    contest = race(candidate("fast", 0.0))
    file = autotune.file_of(contest)
    folder.mkdir()
    good = {"winner": "plain", "ms": {}, "left_out": {}, "key": dict(contest.key)}
    assert_found = {
        json.dumps(good): "plain",
        json.dumps(good)[:-20]: "fast",
        "": "fast",
        "[]": "fast",
        "3": "fast",
        json.dumps(good | {"winner": "unknown"}): "fast",
        json.dumps(good | {"winner": ["plain"]}): "fast",
        json.dumps(good | {"ms": None}): "fast",
        json.dumps(good | {"key": {"channels": 9}}): "fast",
    }
    for text, expected in assert_found.items():
        file.write_text(text)
        autotune.forget()
        assert autotune.choose(contest) == expected, text
        assert json.loads(file.read_text())["winner"] == expected
    file.write_bytes(b"\xff\xfe\x00")
    autotune.forget()
    assert autotune.choose(contest) == "fast"


def test_folder_that_cannot_be_written(folder, messages):
    folder.parent.joinpath("autotune").write_text("a file where the folder should be")
    contest = race(candidate("fast", 0.0))
    assert autotune.choose(contest) == "fast"
    assert autotune.choose(contest) == "fast"
    (line,) = (m for m in messages(logging.DEBUG) if "memory only" in m)
    assert "squares" in line
    assert not messages(logging.WARNING)


def test_user_without_home(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SWIN_DENSE_CACHE_DIR", "~/.cache")  # what expanduser leaves as it is
    assert autotune.choose(race(candidate("fast", 0.0))) == "fast"
    assert not list(tmp_path.iterdir())


def test_crash_while_writing_leaves_the_old_file(folder, monkeypatch):
    contest = race(candidate("fast", 0.0))
    autotune.choose(contest)
    file = autotune.file_of(contest)
    before = file.read_text()
    monkeypatch.setattr(os, "replace", failing(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        autotune.tune(contest)
    assert file.read_text() == before


def test_other_configurations_and_versions_have_other_files(folder):
    contest = race(candidate("fast", 0.0))
    other = replace(contest, key={**contest.key, "versions": {"torch": "2.99"}})
    autotune.choose(contest)
    autotune.choose(other)
    assert len(list(folder.iterdir())) == 2


def test_versions_name_the_code_that_computes():
    found = autotune.versions("platformdirs", "no-such-package")
    assert found.keys() == {"torch", "platformdirs", "swin_dense"}
    assert found["torch"] == str(torch.__version__)
    assert len(found["swin_dense"]) == 16


def test_tune_measures_again(folder):
    contest = race(candidate("fast", 0.0))
    autotune.choose(contest)
    slower = race(candidate("fast", 0.02))
    assert autotune.tune(slower).winner == "plain"
    assert autotune.choose(contest) == "plain"
    autotune.forget()
    assert autotune.choose(contest) == "plain"


_START = f"""
import sys, types
package = types.ModuleType("swin_dense")  # without OpenMMLab, which takes long to import
package.__path__ = [{str(Path(autotune.__file__).parents[1])!r}]
sys.modules["swin_dense"] = package
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_autotune import autotune, candidate, clock, race
autotune.perf_counter = clock
"""
_ONE = """
for i in range(60):
    autotune.forget()
    contest = race(candidate("fast", 0.0), key={"channels": i % 3}, seconds=0.001)
    (autotune.tune if i % 2 else autotune.choose)(contest)
"""


def test_several_processes_at_once(folder):
    running = [subprocess.Popen([sys.executable, "-c", _START + _ONE]) for _ in range(2)]
    while any(process.poll() is None for process in running):
        for file in folder.glob("*.json"):
            json.loads(file.read_text())  # whole at any time
        time.sleep(0.02)
    assert [process.returncode for process in running] == [0, 0]
    assert len(list(folder.iterdir())) == 3


_LOST = """
import os, signal, time
def end():
    print("tried", flush=True)
    os.kill(os.getpid(), signal.SIGKILL) if sys.argv[1] == "crashes" else time.sleep(1000)
autotune.choose(race(candidate("lethal", **{sys.argv[2]: end}), candidate("good", 0.001)))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no locks of files")
@pytest.mark.parametrize(("how", "where"), [("crashes", "check"), ("hangs", "step")])
def test_candidate_that_ended_a_process_is_left_out_by_the_next(how, where, folder, messages):
    command = [sys.executable, "-c", _START + _LOST, how, where]
    runs = []
    contest = race(candidate("lethal", 0.0, runs), candidate("good", 0.001))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "tried\n"
        if how == "hangs":  # while its process lives, nobody knows that it will not come back
            assert not autotune._Notes(contest).lost
            process.kill()
    assert process.returncode < 0
    (notes,) = folder.iterdir()
    assert notes.suffix == ".running"

    starved = replace(contest, candidates=[*contest.candidates, _BIG])
    for i in range(2):  # what is not kept in the file does not end the notes either
        autotune.forget()
        assert autotune.choose(starved) == "good"
        assert len(messages(logging.WARNING)) == 2 * (i + 1)
    assert [*folder.iterdir()] == [notes]

    autotune.forget()
    assert autotune.choose(contest) == "good"
    assert messages(logging.WARNING)[-1].startswith("squares: lethal is left out: a process ended")
    assert not runs
    (file,) = folder.iterdir()
    assert json.loads(file.read_text())["left_out"].keys() == {"lethal"}
    autotune.forget()
    assert autotune.choose(contest) == "good"
    assert len(messages(logging.WARNING)) == 5  # from the file: no more warning
    assert autotune.tune(contest).winner == "lethal"


@pytest.mark.skipif(sys.platform == "win32", reason="no locks of files")
def test_trusted_candidate_is_never_left_out(folder):
    contest = race(candidate("good", 0.001))
    folder.mkdir()
    autotune.file_of(contest).with_suffix(".running").write_text("plain\nunknown\n")
    assert autotune.choose(contest) == "good"
    assert [file.suffix for file in folder.iterdir()] == [".json"]


_JOB = """
import logging
import torch.distributed as dist
logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=2)
# Each process would choose another one, on another device.
times = (0.001, 0.02) if rank == 0 else (0.02, 0.001)
def contest(channels, *more):
    key = {"device": {"name": rank}, "channels": channels}
    return race(candidate("a", times[0]), candidate("b", times[1]), *more, key=key)

print([autotune.choose(contest(i)) for i in (1, 2, 1)])
if rank == 0:  # as an earlier job may have found
    autotune._save(contest(3), autotune.Result("b", {"b": 1.0}))
print(autotune.choose(contest(3)))
print(autotune.choose(contest(4, *[candidate("only there", 0.0)] * (rank == 0))))
dist.barrier()
if rank == 1:  # as in a hook of one process
    autotune.forget()
    autotune._BEGIN_SECONDS = 0.1
    print([autotune.choose(contest(i)) for i in (5, 6, 5)])
dist.barrier()
dist.destroy_process_group()
"""


def test_processes_of_a_job_agree(folder):
    """On what the first one measured, or finds in its file; none waits for ever."""
    command = [sys.executable, "-c", _START + _JOB]
    meeting = str(folder.parent / "meeting")
    running = [
        subprocess.Popen([*command, str(rank), meeting], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    first, second = (process.communicate(timeout=100)[0].splitlines() for process in running)
    assert [process.returncode for process in running] == [0, 0]
    assert first == ["['a', 'a', 'a']", "b", "only there"]
    assert second == [
        "['a', 'a', 'a']",
        "b",
        "squares: only there, chosen by the first process of the job, is not possible here; "
        "taking plain",
        "plain",
        "squares: the first process of the job did not say what it chose; taking plain",
        "['plain', 'plain', 'plain']",
    ]
    assert len(list(folder.iterdir())) == 4  # the first process writes
