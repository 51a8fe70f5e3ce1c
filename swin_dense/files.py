"""Writing files so that none is ever seen half written, whatever ends the process or machine."""

import contextlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def replace_file(path: str | Path) -> Iterator[BinaryIO]:
    """Writes a file beside ``path``, which takes its place when it is complete and on the disk.

    Until then, and if anything fails, what was at ``path`` stays. A process that is killed leaves
    ``.NAME.PID.part``, see :func:`remove_parts`.

    Raises:
        OSError: the disk is full or cannot be written to, or the folder is gone (it is not made
            again: results would be spread over two); names ``path``.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            with part.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException as error:
            part.unlink(missing_ok=True)
            if isinstance(error, RuntimeError) and isinstance(error.__context__, OSError):
                raise error.__context__ from None  # torch.save hides that the disk is full
            raise
        _sync_folder(path.parent)
    except OSError as error:
        if error.filename in (None, str(part)):
            error.filename = str(path)
        raise


def write_text(path: str | Path, text: str) -> None:
    """Replaces a text file, in UTF-8; see :func:`replace_file`."""
    with replace_file(path) as file:
        file.write(text.encode())


def write_json(path: str | Path, content: Any) -> None:
    """Replaces a JSON file; see :func:`replace_file`."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def link_file(target: str | Path, link: str | Path) -> None:
    """Gives a file a second name in its folder, which replaces what has that name.

    It is a symbolic link, or a copy where the file system has none.
    """
    target, link = Path(target), Path(link)
    part = link.with_name(f".{link.name}.{os.getpid()}.part")
    try:
        part.symlink_to(target.name)
    except OSError:
        with replace_file(link) as copy, target.open("rb") as file:
            while block := file.read(1 << 24):
                copy.write(block)
        return
    os.replace(part, link)
    _sync_folder(link.parent)


@contextmanager
def lock_file(path: str | Path, note: str) -> Iterator[str | None]:
    """Holds a lock until the end of the block, or of the process, however that ends.

    The system keeps it (a POSIX record lock), so that none is left behind; children do not inherit
    it. The file stays. Windows and some network file systems have no such locks, and let all in.

    Args:
        path: the file that is locked; its folder exists.
        note: what other processes get to read.

    Yields:
        None, or the note of the process that holds the lock.
    """
    holder = None
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            if fcntl is not None:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # what POSIX lets it be
            holder = os.read(descriptor, 4096).decode(errors="replace")
        except OSError:  # no locks here
            pass
        if holder is None:
            with contextlib.suppress(OSError):  # no space
                os.ftruncate(descriptor, 0)
                os.write(descriptor, note.encode())
        yield holder
    finally:
        os.close(descriptor)


def remove_parts(folder: str | Path) -> None:
    """Removes what processes that were killed while they wrote have left in a folder."""
    for part in Path(folder).glob(".*.part"):
        part.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Puts the names in a folder on the disk, where the system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems cannot
        pass
    finally:
        os.close(descriptor)
