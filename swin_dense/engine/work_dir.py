"""The folder of a run: one training at a time, a log folder of its own, its newest checkpoint."""

import contextlib
import itertools
import json
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from swin_dense.checkpoints.files import load_checkpoint, load_without_weights
from swin_dense.engine.terminal.console import notify_user
from swin_dense.errors import UserError
from swin_dense.files import lock_file

_POINTER = "last_checkpoint"  # mmengine's name


@contextlib.contextmanager
def lock_work_dir(work_dir: str | Path) -> Iterator[None]:
    """Keeps other trainings out of a folder, until the end of the block or of this process.

    A job that Slurm or torchrun starts again takes over: on a network file system, the lock of a
    node that died may stay for a while.

    Raises:
        UserError: another training is in it.
    """
    me = {"process": os.getpid(), "host": socket.gethostname(), **_job()}
    with lock_file(Path(work_dir, ".lock"), json.dumps(me)) as holder:
        if holder is not None:
            other = _parse(holder)
            if not _follows(me, other):
                raise UserError(
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
