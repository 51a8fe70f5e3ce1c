"""mmengine's files on local disks: whole or not at all."""

from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

from swin_dense.files import replace_file


class WholeFileBackend(LocalBackend):
    """mmengine's backend of local disks, whose files take their place when they are complete."""

    def put(self, obj, filepath) -> None:
        """Writes bytes; folders on the way are made."""
        Path(filepath).parent.mkdir(parents=True, exist_ok=True)
        with replace_file(filepath) as file:
            file.write(obj)

    def put_text(self, obj, filepath, encoding="utf-8") -> None:
        """Writes text."""
        self.put(obj.encode(encoding), filepath)


def write_whole_files() -> None:
    """Make mmengine write checkpoints and results to local disks by :mod:`swin_dense.files`."""
    register_backend("local", WholeFileBackend, force=True, prefixes="")
