"""Label maps of any kind become label maps of class indices, on which segmentors are trained."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track

from swin_dense.datasets.formats.colour_tables import Table
from swin_dense.datasets.formats.kept import cache_folder
from swin_dense.datasets.formats.map_folders import Pair
from swin_dense.errors import UserError
from swin_dense.files import replace_file, write_text

IGNORED = 255
INDICES = ("L", "P", "1", "I", "I;16")
_BORDER, _BLACK = 0xE0E0C0, 0x000000  # of objects in Pascal VOC, and what no class has
_THREADS = 8
_LOSSY = ("JPEG", "MPO")


def kinds_of(paths: Iterable[Path]) -> set[str]:
    """Pillow's modes of label maps, such as ``L`` of indices and ``RGB`` of colours.

    Those that cannot be opened are left out: the check of the data tells of them.

    Raises:
        UserError: the format of one changes values.
    """
    kinds = set()
    for path in paths:
        try:
            with Image.open(path) as image:
                kinds.add(image.mode)
                is_lossy = image.format in _LOSSY
        except Exception:  # Pillow's readers raise OSError, SyntaxError, ValueError ...
            continue
        if is_lossy:
            raise UserError(f"{path} is a JPEG, which changes values: save label maps as PNG")
    return kinds


def read_labels(path: Path, table: Table) -> NDArray[np.uint8]:
    """Read a label map as class indices, of which 255 is ignored.

    Colours are looked up in the table, and black or Pascal VOC's borders are ignored where no class
    has them; an image whose red, green and blue are equal has indices. Indices are those of the
    table's values, if it has some.

    Returns:
        (height, width).

    Raises:
        UserError: it has a value or colour that means no class; names it.
    """
    has_colours = table.colours is not None
    labels = _decoded(path, [kind for kind in INDICES if not (has_colours and kind == "P")])
    if labels.ndim == 3 and has_colours:
        return _by_colour(path, labels.astype(np.int64), table)
    if labels.ndim == 3:
        if not (labels == labels[..., :1]).all():
            raise UserError(
                f"{path} has colours, and nothing tells which classes they mean: add "
                "palette=((red, green, blue), ...) to own_data, one for each of classes, or put a "
                "class_dict.csv with lines of name,r,g,b beside the data"
            )
        labels = labels[..., 0]
    if labels.max(initial=0) > IGNORED:
        raise UserError(f"{path} has the value {labels.max()}: at most 255 are read")
    return _by_value(path, labels.astype(np.uint8), table)


def write_maps(
    folder: Path, parts: dict[str, list[Pair]], table: Table
) -> dict[str, dict[str, str]]:
    """Write label maps of indices, named after their images, and a list of each part's images.

    Args:
        folder: of what is written.
        parts: images with label maps.
        table: what their values and colours mean.

    Returns:
        For each part what ``own_data`` takes: ``img_dir``, ``seg_dir`` and ``ann_file``.
    """
    images = [os.path.abspath(image) for pairs in parts.values() for image, _ in pairs]
    base = os.path.commonpath([os.path.dirname(image) for image in images])
    found = {}
    for split, pairs in reversed(parts.items()):  # the list for training is the last file
        names = [os.path.relpath(image, base) for image, _ in pairs]
        listed = folder / f"{split}.txt"
        found[split] = {"img_dir": base, "seg_dir": str(folder / "label_maps")}
        found[split]["ann_file"] = str(listed)
        if listed.is_file():
            continue
        targets = [folder / "label_maps" / f"{name}.png" for name in names]
        _convert([place for _, place in pairs], targets, table)
        write_text(listed, "".join(f"{name}\n" for name in names))
    return found


def place_of_maps(root: Path, parts: dict[str, list[Pair]], table: Table) -> Path:
    """The folder in the cache for these label maps; changed ones get another."""
    digest = hashlib.sha256(repr((table, os.path.abspath(root))).encode())
    for split, pairs in parts.items():
        for image, place in pairs:
            state = place.stat()
            digest.update(repr((split, image, place, state.st_mtime_ns, state.st_size)).encode())
    name = Path(os.path.abspath(root)).name
    return cache_folder() / f"{name}-label-maps-{digest.hexdigest()[:12]}"


def _convert(places: Sequence[Path], targets: Sequence[Path], table: Table) -> None:
    def convert(place: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(target) as file:
            Image.fromarray(read_labels(place, table)).save(file, "PNG")

    console = Console(stderr=True)
    with ThreadPoolExecutor(_THREADS) as threads:
        try:
            converted = threads.map(convert, places, targets)
            for _ in track(
                converted,
                "converting label maps",
                total=len(places),
                console=console,
                transient=True,
                disable=not console.is_terminal,
            ):
                pass
        except UserError:  # the first one's; the others need not be looked at
            threads.shutdown(cancel_futures=True)
            raise


def _decoded(path: Path, kept: Iterable[str]) -> NDArray[Any]:
    """Pixels as they are, where the image is of a kind in ``kept``, else red, green and blue."""
    try:
        with Image.open(path) as image:
            return np.asarray(image if image.mode in kept else image.convert("RGB"))
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError ...
        raise UserError(f"{path} is truncated or not an image ({error}): replace it") from error


def _by_colour(path: Path, pixels: NDArray[Any], table: Table) -> NDArray[np.uint8]:
    codes = pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]
    known = {_BORDER: IGNORED, _BLACK: IGNORED}
    known |= {r << 16 | g << 8 | b: i for i, (r, g, b) in enumerate(table.colours or ())}
    present, places = np.unique(codes, return_inverse=True)
    strange = [int(code) for code in present if int(code) not in known]
    if strange:
        row, column = np.argwhere(codes == strange[0])[0].tolist()
        code = strange[0]
        raise UserError(
            f"{path} has {len(strange)} colours that no class has, the first is "
            f"({code >> 16}, {code >> 8 & 255}, {code & 255}) at x {column}, y {row}: add them to "
            f"{table.path or 'palette and classes'}, or save label maps without smoothed edges"
        )
    return np.array([known[int(c)] for c in present], np.uint8)[places].reshape(codes.shape)


def _by_value(path: Path, labels: NDArray[np.uint8], table: Table) -> NDArray[np.uint8]:
    if table.values is None:
        return labels
    meaning = np.full(256, IGNORED, np.uint8)
    meaning[list(table.values)] = np.arange(len(table.values))
    strange = set(np.unique(labels).tolist()) - {*table.values, IGNORED}
    if strange:
        raise UserError(
            f"{path} has the value {min(strange)}, which {table.path} does not name: add it there"
        )
    return meaning[labels]
