"""mmengine's files on local disks: whole or not at all."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

from swin_dense.files import replace_file

_kept: ContextVar[Path | None] = ContextVar("kept", default=None)


class WholeFileBackend(LocalBackend):
    """mmengine's backend of local disks, whose files take their place when they are complete."""

    def put(self, obj, filepath) -> None:
        """Writes bytes; folders on the way are made, but see :func:`folder_not_made_again`."""
        folder = Path(filepath).absolute().parent
        if folder != _kept.get():
            folder.mkdir(parents=True, exist_ok=True)
        with replace_file(filepath) as file:
            file.write(obj)

    def put_text(self, obj, filepath, encoding="utf-8") -> None:
        """Writes text."""
        self.put(obj.encode(encoding), filepath)


@contextlib.contextmanager
def folder_not_made_again(folder: str | Path) -> Iterator[None]:
    """Lets it be an error, in the block, that this folder is gone."""
    token = _kept.set(Path(folder).absolute())
    try:
        yield
    finally:
        _kept.reset(token)


def write_whole_files() -> None:
    """Make mmengine write checkpoints and results to local disks by :mod:`swin_dense.files`."""
    register_backend("local", WholeFileBackend, force=True, prefixes="")
