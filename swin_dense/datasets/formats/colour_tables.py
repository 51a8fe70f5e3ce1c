"""Which class a value or colour of a label map means, as files beside the label maps tell."""

import csv
from dataclasses import dataclass
from pathlib import Path

from swin_dense.datasets.formats.splits import read_lines, split_folders
from swin_dense.errors import UserError

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Table:
    """Classes in the order of their labels, with the colour or value that label maps have for each.

    Attributes:
        path: the file; None if the config gives it.
        classes: names.
        colours: RGB, or None.
        values: or None, where they are 0, 1, 2 ...
    """

    path: Path | None
    classes: tuple[str, ...]
    colours: tuple[Colour, ...] | None = None
    values: tuple[int, ...] | None = None


def find_table(root: Path) -> Table | None:
    """Read the first of the files that labelling tools write; None if there is none.

    They are Roboflow's ``_classes.csv`` (value, name), CamVid's ``class_dict.csv`` (name and three
    numbers), CVAT's ``labelmap.txt`` (``name:r,g,b::``) and ``classes.txt`` (a name in each line).

    Raises:
        UserError: a line is malformed.
    """
    for folder in (root, *split_folders(root).values()):
        for name, read in _READERS.items():
            path = folder / name
            if path.is_file():
                return read(path)
    return None


def _read_values(path: Path) -> Table:
    rows = _rows(path, 2, first=0)
    values = [_whole(path, number, row[0]) for number, row in rows]
    return Table(path, tuple(row[1] for _, row in rows), values=tuple(values))


def _read_colours(path: Path) -> Table:
    rows = _rows(path, 4, first=1)
    colours = [_colour(path, number, row[1:4]) for number, row in rows]
    return Table(path, tuple(row[0] for _, row in rows), tuple(colours))


def _read_label_map(path: Path) -> Table:
    names, colours = [], []
    for number, line in read_lines(path):
        if line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        names.append(name.strip())
        colours.append(_colour(path, number, rest.partition(":")[0].split(",")))
    return Table(path, tuple(names), tuple(colours))


def _read_names(path: Path) -> Table:
    return Table(path, tuple(line for _, line in read_lines(path)))


_READERS = {
    "_classes.csv": _read_values,
    "class_dict.csv": _read_colours,
    "labelmap.txt": _read_label_map,
    "classes.txt": _read_names,
}


def _rows(path: Path, columns: int, first: int) -> list[tuple[int, list[str]]]:
    """Rows with the numbers of their lines, without a heading: ``first`` is the first number."""
    found = []
    for number, line in read_lines(path):
        cells = [cell.strip() for cell in next(csv.reader([line]))]
        if len(cells) < columns:
            raise UserError(f"{path} line {number}: expected {columns} values with commas")
        if number > 1 or cells[first].isdigit():
            found.append((number, cells))
    return found


def _colour(path: Path, number: int, cells: list[str]) -> Colour:
    values = [_whole(path, number, cell) for cell in cells]
    if len(values) != 3:
        raise UserError(f"{path} line {number}: a colour is three numbers, red, green and blue")
    return values[0], values[1], values[2]


def _whole(path: Path, number: int, cell: str) -> int:
    text = cell.strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and int(text) <= 255):
        raise UserError(f"{path} line {number}: {text!r} is no whole number of 0 to 255")
    return int(text)
