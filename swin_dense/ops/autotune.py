"""The fastest of several ways to compute the same, chosen by measurement on the machine at hand.

On first use of a configuration, :func:`choose`

1. checks what each candidate computes from a small input, gradients too, against the exact result;
   one that is wrong, or raises, is left out with a warning;
2. times the others on the real input, in turns, for at most a second;
3. keeps the winner in memory and in a file of the user's cache folder (``SWIN_DENSE_CACHE_DIR``
   names another one): a file per configuration, which is replaced as a whole, so that processes
   may run, or be killed, at any time.

While candidates run, a second file names the one that does. A candidate that kills its process, or
hangs until it is killed, is named by what stays behind: the next process leaves it out.

The processes of one job take what the first of them chose. Nothing is measured, and the candidate
that is named as fixed is taken, with ``SWIN_DENSE_AUTOTUNE=0``, where deterministic algorithms are
asked for (two measurements may end differently), while PyTorch traces, and while a CUDA graph is
recorded.
"""

import hashlib
import json
import logging
import math
import os
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Lock
from time import monotonic, perf_counter, sleep
from typing import Any, NamedTuple, TextIO, TypeVar

import torch
from platformdirs import user_cache_path
from torch import Tensor
from torch import distributed as dist

from swin_dense.files import write_json
from swin_dense.ops.torch_versions import is_compiling

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

R = TypeVar("R")

# A candidate's error may be so many times that of the trusted one, plus rounding of fp32 sums.
_ALLOWED, _ROUNDING = 4.0, 4e-6
_ROUNDS = 15
# A step is repeated for so many seconds, so that starting it does not count.
_LEAST_SECONDS, _MOST_REPEATS = 2e-3, 100
# After some rounds, a candidate that is slower than the fastest by this factor is not run again.
_HOPELESS, _ROUNDS_OF_ALL = 1.5, 2
# Seconds that other processes wait for the first one to begin, and then to finish.
_BEGIN_SECONDS, _FINISH_SECONDS = 30.0, 600.0
_LOST = "a process ended while it was tried (tools/benchmark.py tune tries it again)"
_NO_MEMORY = re.compile("out of memory|can't allocate memory|ALLOC_FAILED")


class Candidate(NamedTuple):
    """A way to compute."""

    name: str
    check: Callable[[], Sequence[Tensor]]  # results and gradients from a small input, always alike
    step: Callable[[], object]  # what is timed
    handicap: float = 1.0  # factor of its time in the comparison: for what time does not show
    compiles: bool = False  # its first run may take long for that reason


@dataclass(frozen=True)
class Race:
    """What is to be chosen, and from what."""

    what: str  # in messages
    key: Mapping[str, Any]  # all that the choice depends on, for JSON; 'device' is the machine
    candidates: Sequence[Candidate]
    exact: Callable[[], Sequence[Tensor]]  # what `check` should return, in higher precision
    trusted: str  # the candidate whose error is the measure of the others'
    fixed: str  # the candidate where nothing may be measured
    device: torch.device
    seconds: float = 1.0  # for all timed runs together


@dataclass(frozen=True)
class Result:
    """What a race found."""

    winner: str
    ms: Mapping[str, float] = field(default_factory=dict)  # of the candidates that were timed
    left_out: Mapping[str, str] = field(default_factory=dict)  # the others, and why
    starved: bool = False  # whether memory ran out, which may not happen the next time


_results: dict[tuple[str, bool], Result] = {}
_locks: dict[str, Lock] = {}
# Names of the races that the first process of the job never began: others no longer wait for it.
_unanswered: list[str] = []


def choose(race: Race) -> str:
    """Name of the candidate that computes; measures it on first use."""
    if fixed_reason() is not None:
        return race.fixed
    key = _text(race.key)
    place = key, in_job()
    found = _results.get(place)
    if found is None:
        with _locks.setdefault(key, Lock()):
            found = _results.get(place)
            if found is None:
                found = _results[place] = _agree(race) if place[1] else _find(race)
                logger.debug("%s: %s", race.what, found)
    return found.winner


def tune(race: Race) -> Result:
    """Measure anew, whatever was found before, and keep the result."""
    result = _measure_and_save(race, again=True)
    _results[_text(race.key), in_job()] = result
    return result


def forget() -> None:
    """Drop what is kept in memory."""
    _results.clear()
    _unanswered.clear()


def fixed_reason() -> str | None:
    """Why nothing may be measured now; None if it may."""
    if is_compiling() or torch.jit.is_tracing():
        return "PyTorch is tracing"
    if os.environ.get("SWIN_DENSE_AUTOTUNE") == "0":
        return "SWIN_DENSE_AUTOTUNE=0"
    if torch.are_deterministic_algorithms_enabled():
        return "deterministic algorithms are asked for"
    return "a CUDA graph is being recorded" if is_capturing() else None


def is_capturing() -> bool:
    """Whether the current stream records a CUDA graph."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def in_job() -> bool:
    """Whether this is one of several processes that agree."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


@cache
def versions(*packages: str) -> dict[str, str]:
    """Versions of PyTorch and these packages, and a digest of the code that computes."""
    found = {"torch": str(torch.__version__)}
    for package in packages:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return found | {"swin_dense": digest.hexdigest()[:16]}


def describe_device(device: torch.device) -> dict[str, Any]:
    """What a GPU or the CPU is, as far as times depend on it."""
    if device.type == "cuda":
        capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
        return {"name": torch.cuda.get_device_name(device), "capability": capability}
    capability = torch.backends.cpu.get_cpu_capability()
    threads = torch.get_num_threads()
    return {"name": cpu_name(), "capability": capability, "threads": threads}


def cpu_name() -> str:
    """Name of the processor."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def folder() -> Path:
    """Where results are kept."""
    return Path(os.environ.get("SWIN_DENSE_CACHE_DIR") or user_cache_path("swin_dense"), "autotune")


def file_of(race: Race) -> Path:
    """Where the result of a race is kept."""
    return folder() / f"{_digest(race.key)}.json"


def _text(key: Mapping[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)


def _digest(key: Mapping[str, Any]) -> str:
    return hashlib.sha256(_text(key).encode()).hexdigest()[:32]


def _load(race: Race) -> Result | None:
    """What the file says; None if there is none, or it cannot be used."""
    try:
        record = json.loads(file_of(race).read_text(encoding="utf-8"))
        result = Result(record["winner"], dict(record["ms"]), dict(record["left_out"]))
        known = _text(record["key"]) == _text(race.key)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return result if known and result.winner in (c.name for c in race.candidates) else None


def _save(race: Race, result: Result) -> bool:
    """Whether the result is now in the file."""
    if result.starved or not result.ms:
        return False
    found = {name: value for name, value in asdict(result).items() if name != "starved"}
    path = file_of(race)
    try:
        if not path.is_absolute():
            raise OSError(f"{path.parent}: this user has no home folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"what": race.what, **found, "key": race.key})
    except OSError as error:
        logger.debug("%s: kept in memory only (%s)", race.what, error)
        return False
    return True


class _Notes:
    """A file that names the candidate that runs, and those that earlier processes did not survive.

    It is locked while its process lives: another one that measures the same meanwhile notes
    nothing. Nor does one without a folder to write to, or on Windows, where files are not locked.

    Args:
        race: what is measured.
        again: whether what earlier processes noted is dropped.
    """

    def __init__(self, race: Race, again: bool = False) -> None:
        self.lost: list[str] = []
        self._path = file_of(race).with_suffix(".running")
        self._file: TextIO | None = None
        if fcntl is None or not self._path.is_absolute():
            return
        with suppress(OSError, ValueError), ExitStack() as stack:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(self._path.open("a+", encoding="utf-8"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.seek(0)
            noted = set() if again else set(file.read().splitlines())
            # Without the trusted candidate, which is plain PyTorch, no other can be checked.
            names = [c.name for c in race.candidates if c.name != race.trusted]
            self.lost = [name for name in names if name in noted]
            self._file = file
            stack.pop_all()

    def write(self, *running: str) -> None:
        """Note who runs; nobody without arguments."""
        if self._file is not None:
            with suppress(OSError):
                self._file.seek(0)
                self._file.truncate()
                self._file.write("".join(f"{name}\n" for name in {*self.lost, *running}))
                self._file.flush()

    def close(self, drop: bool) -> None:
        """End the notes; ``drop`` also those about earlier processes."""
        if self._file is not None:
            with suppress(OSError):
                if drop or not self.lost:
                    self._path.unlink(missing_ok=True)
            self._file.close()


def _find(race: Race) -> Result:
    """From the file, or measured."""
    return _load(race) or _measure_and_save(race)


def _measure_and_save(race: Race, again: bool = False) -> Result:
    notes = _Notes(race, again)
    found = measure(race, notes)
    notes.close(drop=_save(race, found))
    return found


def _agree(race: Race) -> Result:
    """The result of the job's first process, by the store that connects its processes.

    Not by a collective, which would wait for ever if only some of them came here.
    """
    assert dist.group.WORLD is not None
    store = dist.group.WORLD.get_group_store()
    machines_differ = {name: value for name, value in race.key.items() if name != "device"}
    name = f"swin_dense/{_digest(machines_differ)}"
    if dist.get_rank() == 0:
        store.set(f"{name}/begun", "")
        found = Result(race.fixed)
        try:
            found = _find(race)
        finally:
            store.set(name, found.winner)
        return found
    problem = "the first process of the job did not say what it chose"
    with suppress(RuntimeError):  # the connection may be lost
        begun = _wait(store, f"{name}/begun", 0 if _unanswered else _BEGIN_SECONDS)
        if begun and _wait(store, name, _FINISH_SECONDS):
            winner = store.get(name).decode()
            if winner in (c.name for c in race.candidates):
                return Result(winner)
            problem = f"{winner}, chosen by the first process of the job, is not possible here"
    if not _unanswered:
        logger.warning("%s: %s; taking %s", race.what, problem, race.fixed)
    _unanswered.append(name)
    return Result(race.fixed)


def _wait(store: Any, name: str, seconds: float) -> bool:
    """Wait until a key is set; False if it is not after so many seconds."""
    deadline = monotonic() + seconds
    while not (there := store.check([name])) and monotonic() < deadline:
        sleep(0.02)
    return there


def measure(race: Race, notes: _Notes | None = None) -> Result:
    """Check and time the candidates; keeps nothing, but tells ``notes`` which one runs.

    In a thread of its own: autocast, hooks of saved tensors, modes, streams and random numbers of
    the caller, who may be in the middle of a training step, stay as they are.
    """
    with ThreadPoolExecutor(1) as pool:
        stream = torch.cuda.current_stream(race.device) if race.device.type == "cuda" else None
        threads = torch.get_num_threads()
        return pool.submit(_measure, race, notes, stream, threads).result()


def _measure(race: Race, notes: _Notes | None, stream: Any, threads: int) -> Result:
    torch.set_num_threads(threads)
    devices = [race.device] if stream else []
    with torch.cuda.stream(stream), torch.random.fork_rng(devices):
        trial = _Trial(race, notes)
        _check(race, trial)
        ms = {name: round(1e3 * seconds, 4) for name, seconds in _time(race, trial).items()}
        if notes is not None:
            notes.write()
        if stream:
            torch.cuda.empty_cache()
    handicaps = {c.name: c.handicap for c in race.candidates}
    winner = min(ms, key=lambda name: ms[name] * handicaps[name], default=race.fixed)
    return Result(winner, ms, trial.left_out, trial.starved)


class _Trial:
    """Runs candidates, and notes those that fail."""

    def __init__(self, race: Race, notes: _Notes | None) -> None:
        self._what, self._device, self._notes = race.what, race.device, notes
        self.left_out: dict[str, str] = {}
        self.starved = False
        for name in () if notes is None else notes.lost:
            self.leave_out(name, _LOST)

    def run(self, name: str, function: Callable[[], R]) -> R | None:
        """``function()``; None if the candidate is left out, now or before."""
        if name in self.left_out:
            return None
        if self._notes is not None:
            self._notes.write(name)
        try:
            found = function()
            synchronize(self._device)
        except Exception as error:
            short = isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError))
            short = short or bool(_NO_MEMORY.search(str(error)))
            self.starved |= short
            first = str(error).partition("\n")[0]
            self.leave_out(name, "out of memory" if short else f"{type(error).__name__}: {first}")
        else:
            return found
        # Here, as the error kept what the candidate had allocated.
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def leave_out(self, name: str, reason: str) -> None:
        """From now on, and say so."""
        self.left_out[name] = reason
        logger.warning("%s: %s is left out: %s", self._what, name, reason)


def _check(race: Race, trial: _Trial) -> None:
    """Leave out the candidates that compute anything else than they should."""
    exact = trial.run("the exact result", race.exact)
    if exact is None:
        del trial.left_out["the exact result"]
        trial.left_out |= {c.name: "not checked" for c in race.candidates}
        return
    errors = {}
    for candidate in race.candidates:
        found = trial.run(candidate.name, candidate.check)
        if found is not None:
            errors[candidate.name] = _error(found, exact)
    bound = _ALLOWED * errors.get(race.trusted, math.nan) + _ROUNDING
    for name, error in errors.items():
        if not error <= bound:
            reason = f"wrong by {error:.1g} of the largest value, {bound:.1g} allowed"
            trial.leave_out(name, reason)


def _error(found: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """Largest difference over the largest value, of the worst tensor; not a number if one has."""
    if [x.shape for x in found] != [x.shape for x in exact]:
        return math.inf
    errors = [
        (x.to(y.dtype) - y).abs().max() / y.abs().max().clamp_min(torch.finfo(y.dtype).tiny)
        for x, y in zip(found, exact, strict=True)
    ]
    return torch.stack(errors).max().item()


def _time(race: Race, trial: _Trial) -> dict[str, float]:
    """Best times in seconds; the candidates take turns."""
    best: dict[str, float] = {}

    def run(candidate: Candidate, repeats: int = 1) -> float:
        """Seconds that it took; those of a step are noted. 0 if it failed."""
        seconds = trial.run(candidate.name, lambda: _seconds(candidate.step, repeats, race.device))
        if seconds is None:
            best.pop(candidate.name, None)
            return 0.0
        best[candidate.name] = min(seconds, best.get(candidate.name, math.inf))
        return repeats * seconds

    for candidate in race.candidates:
        if run(candidate) < race.seconds or candidate.compiles:
            run(candidate)  # the first run loads kernels, or compiles them
    left = race.seconds
    repeats = {
        name: min(_MOST_REPEATS, math.ceil(_LEAST_SECONDS / max(seconds, 1e-6)))
        for name, seconds in best.items()
    }
    for round_ in range(_ROUNDS):
        for candidate in race.candidates:
            seconds = best.get(candidate.name, math.inf)
            cost = repeats.get(candidate.name, 1) * seconds
            fastest = min(best.values(), default=0.0)
            hopeless = round_ >= _ROUNDS_OF_ALL and seconds > _HOPELESS * fastest
            if cost <= left and not hopeless:
                left -= run(candidate, repeats[candidate.name])
    return best


def _seconds(step: Callable[[], object], repeats: int, device: torch.device) -> float:
    synchronize(device)
    start = perf_counter()
    for _ in range(repeats):
        step()
    synchronize(device)
    return (perf_counter() - start) / repeats


def synchronize(device: torch.device) -> None:
    """Wait for the current stream; not for others, which may be recording a graph."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
