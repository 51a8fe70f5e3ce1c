"""The images and videos that a user names: files, folders, patterns, lists of these, URLs."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote, urlparse

from PIL import Image

from swin_dense.checkpoints import download
from swin_dense.datasets.image_files import UnreadableImageError
from swin_dense.errors import UserError

Inputs: TypeAlias = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

_VIDEOS = {".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov"}
_VIDEOS |= {".mp4", ".mpeg", ".mpg", ".mts", ".webm", ".wmv"}
# Bytes and seconds that a download may take.
_IMAGE_LIMITS = 256 * 2**20, 60.0
_VIDEO_LIMITS = 8 * 2**30, 3600.0
_OTHER = "not an image or a video"


@dataclass(frozen=True)
class Source:
    """An image or a video: ``given`` is its path or its http(s) URL."""

    given: str

    @property
    def is_url(self) -> bool:
        """Whether it is on the web."""
        return _is_url(self.given)

    @property
    def name(self) -> str:
        """The name of the file."""
        path = unquote(urlparse(self.given).path) if self.is_url else self.given
        return Path(path).name or "download"

    @property
    def is_video(self) -> bool:
        """Whether its name is that of a video."""
        return Path(self.name).suffix.lower() in _VIDEOS

    def local(self, folder: Path) -> Path:
        """The file on this machine; one of the web is downloaded to ``folder``.

        Raises:
            UnreadableImageError: it cannot be downloaded, or is too large, or takes too long.
        """
        if not self.is_url:
            return Path(self.given)
        path = folder / self.name
        try:
            download(self.given, path, *(_VIDEO_LIMITS if self.is_video else _IMAGE_LIMITS))
        except OSError as error:
            raise UnreadableImageError(f"cannot be downloaded ({error})") from error
        return path


@dataclass(frozen=True)
class Skipped:
    """What is not predicted on, a path or a URL, and why."""

    given: str
    reason: str


def find_inputs(given: Inputs) -> tuple[list[Source], list[Skipped]]:
    """The images and videos that paths mean, each once, and what is left out of them.

    Each path is one of these:

    - an image or a video, or an http(s) URL of one;
    - a folder: its images and videos (not those of the folders within it), by name;
    - a pattern, as in ``'photos/**/*.jpg'``;
    - a text file, ``.txt``, with one of the above on each line. They are relative to the current
      folder or else to that of the file; empty lines and those that begin with ``#`` do not count.

    Raises:
        UserError: there is nothing at a path, or no image or video at any of them.
    """
    items = [given] if isinstance(given, str | os.PathLike) else given
    found = [one for item in items for one in _expand(os.fspath(item))]
    sources = [one for one in found if isinstance(one, Source)]
    skipped = [one for one in found if isinstance(one, Skipped)]
    if not sources:
        raise UserError(f"{skipped[0].given}: {skipped[0].reason}" if skipped else "no image given")
    return list(dict.fromkeys(sources)), skipped


def _expand(given: str) -> Iterator[Source | Skipped]:
    path = Path(given).expanduser()
    if _is_url(given):
        yield Source(given)
    elif path.is_dir():
        yield from _in_folder(path)
    elif path.is_file():
        yield from _in_list(path) if path.suffix.lower() == ".txt" else [Source(str(path))]
    elif any(character in given for character in "*?["):
        matches = [Path(match) for match in sorted(glob(str(path), recursive=True))]
        if not (files := [match for match in matches if match.is_file()]):
            raise UserError(f"no image matches the pattern {given}")
        yield from map(_by_suffix, files)
    else:
        raise UserError(f"no such image or folder: {given}")


def _in_folder(folder: Path) -> Iterator[Source | Skipped]:
    found = [_by_suffix(path) for path in sorted(folder.iterdir())]
    if any(isinstance(one, Source) for one in found):
        for one in found:
            if isinstance(one, Source) or not Path(one.given).name.startswith("."):
                yield one
    else:
        reason = "no images in this folder: expected .jpg, .png or another image format"
        yield Skipped(str(folder), reason)


def _by_suffix(path: Path) -> Source | Skipped:
    if path.is_dir():
        return Skipped(str(path), "a folder within a folder: give it too, or a pattern with **")
    known = path.suffix.lower() in {*Image.registered_extensions(), *_VIDEOS}
    return Source(str(path)) if known else Skipped(str(path), _OTHER)


def _in_list(path: Path) -> Iterator[Source | Skipped]:
    try:
        lines = [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
    except ValueError:  # of encodings
        lines = []
    named = [line for line in lines if line and not line.startswith("#")]
    found = [one for line in named for one in _listed(line, path.parent)]
    if any(isinstance(one, Source) for one in found):
        yield from found
    else:
        yield Skipped(str(path), f"{_OTHER}, nor a list of them: no line of it names one")


def _listed(line: str, folder: Path) -> Iterator[Source | Skipped]:
    if Path(line).suffix.lower() == ".txt":
        yield Skipped(line, "a list within a list")
        return
    for given in (line, str(folder / line)):
        try:
            yield from list(_expand(given))
            return
        except UserError:
            continue
    yield Skipped(line, "no such file")


def _is_url(given: str) -> bool:
    return given.lower().startswith(("http://", "https://"))
