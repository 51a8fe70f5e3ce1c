"""The folder of a run: a new one, for one training at a time; its logs; its newest checkpoint."""

import contextlib
import itertools
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.dist import master_only
from mmengine.hooks import Hook

from swin_dense.checkpoints.files import load_checkpoint, load_without_weights
from swin_dense.engine.paths import make_output_dir
from swin_dense.engine.terminal.console import notify_user
from swin_dense.errors import UserError
from swin_dense.files import lock_file

_POINTER = "last_checkpoint"  # mmengine's name
_LOCK = ".lock"
_CHECKPOINT = re.compile(r"(best_.+_)?(epoch|iter)_\d+\.pth|(last|best)\.pth")
_LOG_FOLDER = re.compile(r"\d{8}_\d{6}(_\d+)?")


class BusyError(UserError):
    """Another training is in a folder."""


@contextlib.contextmanager
def take_new_work_dir(work_dir: str | Path) -> Iterator[str]:
    """Takes a folder without a run, and locks it: the one that is asked for, or a numbered one.

    That is ``NAME_2`` beside ``NAME``, or the one after the last of these that has a run. A folder
    in which a training runs has one too, whatever it has saved.

    Raises:
        UserError: the folder cannot be made or written to.
    """
    for folder in _free_folders(Path(work_dir)):
        make_output_dir(folder, "--work-dir")
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(lock_work_dir(folder))
            except BusyError:
                continue
            if holds_run(folder):  # of a training that ended a moment ago
                continue
            yield str(folder)
            return


def _free_folders(work_dir: Path) -> Iterator[Path]:
    if not holds_run(work_dir):
        yield work_dir
    runs = numbered_folders(work_dir)
    number = 1 + max((number for number, folder in runs.items() if holds_run(folder)), default=1)
    for after in itertools.count(number):
        yield _numbered(work_dir, after)


def numbered_folders(work_dir: Path) -> dict[int, Path]:
    """The folders ``NAME``, ``NAME_2``, ``NAME_3``, ... that exist, by number."""
    name = re.compile(re.escape(_numbered(work_dir, 1).name) + r"_([2-9]|[1-9]\d+)")
    found = {1: work_dir} if work_dir.is_dir() else {}
    parent = _numbered(work_dir, 1).parent
    for path in parent.iterdir() if parent.is_dir() else ():
        if (match := name.fullmatch(path.name)) and path.is_dir():
            found[int(match[1])] = path
    return dict(sorted(found.items()))


def _numbered(work_dir: Path, number: int) -> Path:
    work_dir = work_dir if work_dir.name not in ("", "..") else work_dir.resolve()
    return work_dir if number == 1 else work_dir.with_name(f"{work_dir.name}_{number}")


def newest_run(work_dir: str | Path, config: str) -> str:
    """The folder, of those of a name, whose training saved a checkpoint last.

    Without any it is the folder of that name itself. ``config`` is the name of the config's file:
    another config may be called as a numbered folder.
    """
    folders = numbered_folders(Path(work_dir)).values()
    saved = {
        folder: Path(folder, _POINTER).stat().st_mtime_ns
        for folder in folders
        if (folder / config).is_file() and named_checkpoint(folder) is not None
    }
    return str(max(saved, key=saved.__getitem__, default=work_dir))


def folder_of_this_job(work_dir: str | Path) -> str | None:
    """The folder, of those of a name, in which this job of Slurm trained before it was requeued."""
    job = _job().get("job")
    for folder in numbered_folders(Path(work_dir)).values():
        with contextlib.suppress(OSError):
            note = _parse((folder / _LOCK).read_text(errors="replace"))
            if job is not None and note.get("job") == job:
                return str(folder)
    return None


def holds_run(work_dir: str | Path) -> bool:
    """Whether a training has saved a checkpoint in a folder."""
    return named_checkpoint(work_dir) is not None or bool(_checkpoints(Path(work_dir)))


def _checkpoints(work_dir: Path) -> list[Path]:
    return [path for path in work_dir.glob("*.pth") if _CHECKPOINT.fullmatch(path.name)]


class OverwriteHook(Hook):
    """Removes what earlier trainings left in the work dir, when this one begins."""

    priority = "HIGHEST"

    @master_only
    def before_train(self, runner) -> None:
        """All is built, and weights are loaded."""
        remove_run(runner.work_dir, kept=os.path.basename(runner.log_dir))
        runner.dump_config()  # it did not replace that of the checkpoints


def how_to_resume(work_dir: str | Path) -> str:
    """For messages: what to add to a command."""
    return f"--work-dir {work_dir} --resume continues"


def is_of_run(path: str | Path, work_dir: str | Path) -> bool:
    """Whether a file is one of the checkpoints in a folder that :func:`remove_run` removes."""
    path = Path(path).absolute()
    return path.parent == Path(work_dir).absolute() and bool(_CHECKPOINT.fullmatch(path.name))


def remove_run(work_dir: str | Path, kept: str) -> None:
    """Removes what trainings left in a folder: checkpoints, logs, configs; nothing of the user's.

    Args:
        work_dir: the folder.
        kept: name of the log folder of the training that begins.
    """
    folder = Path(work_dir)
    logs = [path for path in folder.iterdir() if _LOG_FOLDER.fullmatch(path.name) and path.is_dir()]
    logs = [path for path in logs if path.name != kept]
    configs = {config.name for log in logs for config in log.glob("*.py")}
    named = named_checkpoint(folder)
    files = {*_checkpoints(folder), folder / _POINTER, folder / "report.html"}
    files |= {folder / name for name in configs}
    if named is not None and Path(named).parent == folder:
        files.add(Path(named))
    for file in sorted(files):
        file.unlink(missing_ok=True)
    for log in logs:
        shutil.rmtree(log)


@contextlib.contextmanager
def lock_work_dir(work_dir: str | Path) -> Iterator[None]:
    """Keeps other trainings out of a folder, until the end of the block or of this process.

    A job that Slurm or torchrun starts again takes over: on a network file system, the lock of a
    node that died may stay for a while.

    Raises:
        BusyError: another training is in it.
    """
    me = {"process": os.getpid(), "host": socket.gethostname(), **_job()}
    with lock_file(Path(work_dir, _LOCK), json.dumps(me)) as holder:
        if holder is not None:
            other = _parse(holder)
            if not _follows(me, other):
                raise BusyError(
                    f"another training is running in {work_dir} (process {other.get('process')} "
                    f"on {other.get('host')}): wait for its end or give another --work-dir"
                )
            notify_user(f"taking over {work_dir} from process {other.get('process')} of this job")
        yield


def _job() -> dict[str, Any]:
    """What stays when Slurm or torchrun starts a job again, and how often Slurm did."""
    if "SLURM_JOB_ID" in os.environ:
        step = f"{os.environ['SLURM_JOB_ID']}.{os.environ.get('SLURM_STEP_ID', '')}"
        return {"job": step, "restarts": int(os.environ.get("SLURM_RESTART_COUNT", 0))}
    name = os.environ.get("TORCHELASTIC_RUN_ID", "none")  # torchrun's default, of all runs
    return {} if name == "none" else {"job": name}


def _follows(me: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether a process is of a job whose earlier process on another node is gone."""
    again = "restarts" not in me or me["restarts"] > other.get("restarts", 0)
    on_another_node = me["host"] != other.get("host")
    return "job" in me and me["job"] == other.get("job") and on_another_node and again


def _parse(note: str) -> Mapping[str, Any]:
    try:
        found = json.loads(note)
    except ValueError:  # the other process is about to write it
        found = {}
    return found if isinstance(found, Mapping) else {}


def new_log_folder(work_dir: str | Path, name: str) -> str:
    """Makes a folder of that name, with a number if there is one already; returns its name."""
    for number in itertools.count(1):
        candidate = name if number == 1 else f"{name}_{number}"
        with contextlib.suppress(FileExistsError):
            Path(work_dir, candidate).mkdir()
            return candidate
    raise AssertionError  # for type checkers: the loop has no end


def find_checkpoint(work_dir: str | Path) -> str | None:
    """The checkpoint of a work dir from which its training continues; None if it has none.

    It is the one that ``last_checkpoint`` names: a file in this folder, whatever path the file says
    (folders are moved and copied), else what is at that path. If that cannot be read, it is the
    newest one in the folder that can; a line tells so.

    Raises:
        UserError: the folder has checkpoints, and none can be read.
    """
    named = named_checkpoint(work_dir)
    if named is not None and "://" in named:
        return named
    damaged = []
    for path in _candidates(work_dir, named):
        try:
            load_checkpoint(path)
        except UserError as error:
            damaged.append(str(error))
            continue
        if path != named:
            missing = f"{Path(work_dir, _POINTER)} names no file that is there"
            notify_user(f"warning: continuing from {path}, as {damaged[0] if damaged else missing}")
        return path
    if damaged:
        raise UserError(f"nothing to resume, as {damaged[0]}; to start anew, empty {work_dir}")
    return None


def named_checkpoint(work_dir: str | Path) -> str | None:
    """What ``last_checkpoint`` of a work dir names, if that is there; it is not read."""
    try:
        name = Path(work_dir, _POINTER).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
    if "://" in name:
        return name
    here = Path(work_dir, os.path.basename(name))
    if here.is_file():
        return str(here)
    elsewhere = Path(name).is_file() and not _newest_first(Path(work_dir))
    return name if elsewhere else None


def _candidates(work_dir: str | Path, named: str | None) -> Iterator[str]:
    if named is not None:
        yield named
    yield from (str(path) for path in _newest_first(Path(work_dir)) if str(path) != named)


def _newest_first(work_dir: Path) -> list[Path]:
    """The checkpoints in a folder that a training can continue from, and damaged ones last.

    The files tell when they were saved: file systems forget it when files are copied, and numbers
    in names may be those of an earlier run.
    """
    dated = []
    for path in work_dir.glob("*.pth"):
        if path.is_symlink() or path.name.startswith("best_"):
            continue
        try:
            content = load_without_weights(path)
        except Exception:  # almost any, for arbitrary bytes
            dated.append((("", 0), path))
            continue
        meta = content.get("meta") if isinstance(content, Mapping) else None
        if not isinstance(meta, Mapping) or "optimizer" not in content:
            continue
        if isinstance(done := meta.get("iter"), int):
            dated.append(((str(meta.get("time")), done), path))
    return [path for _, path in sorted(dated, key=lambda one: one[0], reverse=True)]
