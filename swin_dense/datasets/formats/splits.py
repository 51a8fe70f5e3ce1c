"""Images in folders, and to which part of a data set they belong."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from swin_dense.datasets.image_files import UnreadableImageError, image_sizes
from swin_dense.datasets.names import shortened
from swin_dense.errors import UserError

SPLITS = ("train", "val", "test")
IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".mpo", ".pbm", ".pgm", ".png", ".ppm"}
    | {".tif", ".tiff", ".webp"}
)
_WORDS = {
    "train": {"train", "training"},
    "val": {"val", "valid", "validation", "dev", "eval"},
    "test": {"test", "testing"},
}
_HELD_OUT = 0.2  # of the images, where there is no validation set


def split_of(name: str) -> str | None:
    """The part that a name of a file or folder tells, as ``val`` for ``instances_val2017``."""
    words = set(re.findall(r"[a-z]+", name.lower()))
    found = [split for split, synonyms in _WORDS.items() if words & synonyms]
    return found[0] if len(found) == 1 else None


def split_folders(root: Path) -> dict[str, Path]:
    """The folders in ``root`` that are named after a part."""
    found: dict[str, Path] = {}
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        split = split_of(folder.name)
        if split and folder.is_dir():
            found.setdefault(split, folder)
    return found


def images_below(folder: Path) -> list[Path]:
    """All image files in a folder and those in it, sorted."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    return sorted(path for path in found if path.is_file() and not path.name.startswith("."))


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbers and texts of the lines that are not empty.

    Raises:
        UserError: the file is not UTF-8 text, or cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text (byte {error.start}): export it again") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield number, line.strip()


def sizes_of(images: Sequence[Path]) -> list[tuple[int, int]]:
    """Width and height of each, in pixels, as they are loaded.

    Raises:
        UserError: some cannot be read; names them.
    """
    sizes = image_sizes(images)
    bad = [i for i, size in enumerate(sizes) if isinstance(size, UnreadableImageError)]
    if bad:
        raise UserError(
            f"{len(bad)} of {len(images)} images cannot be read ({images[bad[0]]}: "
            f"{sizes[bad[0]]}): replace or remove {shortened([images[i] for i in bad])}"
        )
    return [size for size in sizes if isinstance(size, tuple)]


def held_out(names: Sequence[str]) -> set[str]:
    """One in five names, but the same ones whatever others there are: by the hash of the name."""
    order = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    count = max(1, round(_HELD_OUT * len(order)))
    return set(order[:count])
