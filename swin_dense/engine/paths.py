"""Paths of checkpoints and results, checked before the work that depends on them."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from swin_dense.errors import UserError


def checkpoint_file(checkpoint: str | Path) -> str:
    """The checkpoint that is meant by a path: of a work dir the best one, else the last one.

    Raises:
        UserError: there is no such file, which is not looked for behind a URL, or no checkpoint in
            the folder.
    """
    folder = Path(checkpoint)
    if "://" not in str(checkpoint) and folder.is_dir():
        files = [folder / name for name in ("best.pth", "last.pth")]
        found = next((file for file in files if file.is_file()), None)
        if found is None:
            raise UserError(f"no best.pth or last.pth in the folder {folder}: give a checkpoint")
        return str(found)
    check_checkpoint_path(checkpoint)
    return str(checkpoint)


def check_checkpoint_path(checkpoint: str | Path) -> None:
    """Raises a UserError if a checkpoint that is not a URL does not exist."""
    if "://" not in str(checkpoint) and not Path(checkpoint).is_file():
        raise UserError(f"no such checkpoint: {checkpoint}")


def make_output_dir(path: str | Path, flag: str) -> None:
    """Creates a folder for results before the work that they cost.

    Raises:
        UserError: it cannot be created or written to; the message suggests another ``flag``.
    """
    try:
        os.makedirs(path, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot write to {path}: {reason}; give another {flag}") from error


# Errors of a disk, which come without the name of the file if it was open.
OF_DISKS = {errno.ENOSPC, errno.EFBIG, errno.EROFS, getattr(errno, "EDQUOT", -1)}


@contextlib.contextmanager
def output_errors(
    folders: Mapping[str, str | Path | None], advice: Callable[[], str | None] = lambda: None
) -> Iterator[None]:
    """Makes user errors of what goes wrong with the folders that a run writes to.

    A disk may be full or read-only, and a folder removed, hours after they were checked.

    Args:
        folders: by the flag that gave them; None if it was not given.
        advice: what to do in place of giving another folder.

    Raises:
        UserError: names the file, or else the folder.
    """
    try:
        yield
    except OSError as error:
        outputs = {flag: Path(folder) for flag, folder in folders.items() if folder is not None}
        place = _find_output(error, outputs)
        if place is None:
            raise
        flag, path = place
        reason = error.strerror or str(error)
        if isinstance(error, FileNotFoundError):
            reason = f"{_nearest_missing(path)} is gone"
        what = advice() or f"give another {flag}"
        raise UserError(f"cannot write {path}: {reason}; {what}") from error


def _find_output(error: OSError, outputs: Mapping[str, Path]) -> tuple[str, Path] | None:
    """The flag and the file, or the folder, in which an error occurred."""
    if isinstance(error.filename, str):
        path = Path(error.filename).absolute()
        inside = [flag for flag, folder in outputs.items() if folder.absolute() in path.parents]
        inside += [flag for flag, folder in outputs.items() if folder.absolute() == path]
        return (inside[-1], Path(error.filename)) if inside else None
    if error.errno not in OF_DISKS:
        return None
    flag = next((one for one, folder in outputs.items() if _is_full(folder)), next(iter(outputs)))
    return flag, outputs[flag]


def _is_full(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1 << 16))
    except OSError:
        return True
    return False


def _nearest_missing(path: Path) -> Path:
    """The uppermost folder on the way to a file that does not exist."""
    missing = [one for one in (path, *path.parents) if not one.exists()]
    return missing[-1] if missing else path
