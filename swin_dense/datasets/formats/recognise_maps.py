"""What ``own_data`` needs to know of a folder of label maps, found out from what is in it."""

import contextlib
import os
import random
from pathlib import Path
from typing import Any

import numpy as np

from swin_dense.datasets.formats.colour_tables import Table, find_table
from swin_dense.datasets.formats.map_folders import MapFolders, find_maps, pair_up
from swin_dense.datasets.formats.maps import (
    IGNORED,
    INDICES,
    kinds_of,
    place_of_maps,
    read_labels,
    write_maps,
)
from swin_dense.datasets.formats.splits import SPLITS
from swin_dense.datasets.names import shortened
from swin_dense.errors import UserError

_READ = 64  # label maps, to see whether 0 means that a pixel is not labelled


def complete_label_maps(own: dict[str, Any]) -> list[str]:
    """Complete an ``own_data`` of images with label maps.

    Where it has a ``root`` alone, folders are recognised, and ``train``, ``val`` and ``test`` are
    set, with ``img_suffix`` and ``seg_suffix``. Without ``classes``, a file in the folder that
    names them is read, with their colours (``palette``) or values. Label maps of colours, of other
    values than 0, 1, 2 ..., or with names of several endings, are converted into the cache folder.
    If there is one value more than classes, 0 counts as not labelled (``reduce_zero_label``).

    Args:
        own: changed in place.

    Returns:
        A line for each thing that was recognised, converted or put right.

    Raises:
        UserError: nothing is recognised, or a file is missing or cannot be meant.
    """
    found = find_own_maps(own)
    if found is None:  # the check of the data says what is missing
        return []
    table = own_table(own)
    places = [place for pairs in found.parts.values() for _, place in pairs]
    kinds = kinds_of(places)
    notes = list(found.notes)
    if "train" not in own:
        counts = ", ".join(f"{len(pairs)} {split}" for split, pairs in found.parts.items())
        notes.insert(
            0, f"{found.root} has label maps ({counts} images, {len(table.classes)} classes)"
        )
    if _needs_conversion(found, table, kinds):
        folder = place_of_maps(found.root, found.parts, table)
        own.update(write_maps(folder, found.parts, table))
        own["img_suffix"], own["seg_suffix"] = "", ".png"
        notes.append(f"the label maps, converted to indices of the classes, are in {folder}")
    elif "train" not in own:
        _use_folders(own, found)
    if table.colours is not None:
        own["palette"] = [list(colour) for colour in table.colours]
    own["classes"] = table.classes
    if "reduce_zero_label" not in own and zero_is_unlabelled(places, table):
        own["reduce_zero_label"] = True
        notes.append(zero_note(table))
    return notes


def find_own_maps(own: dict[str, Any]) -> MapFolders | None:
    """Images and label maps of an ``own_data``; None if a folder that it names is not there."""
    root = Path(own["root"])
    if "train" in own:
        found = MapFolders(root)
        for split in SPLITS:
            part = own.get(split)
            folders = [root / part[key] for key in ("img_dir", "seg_dir")] if part else []
            if part and ("ann_file" in part or not all(folder.is_dir() for folder in folders)):
                return None
            if part:
                found.parts[split], ending = pair_up(
                    folders[0], folders[1], *_suffixes(own, folders[0])
                )
                found.places[split], found.endings[split] = (folders[0], folders[1]), ending
        return found if found.parts.get("train") else None
    if not root.is_dir():
        raise UserError(f"no data root {root}: put the data there, or set --data-root DIR")
    recognised = find_maps(root)
    if recognised is None:
        names = sorted(path.name for path in root.iterdir())
        raise UserError(
            f"{root} is no data set that is recognised: it has {shortened(names, 8) or 'nothing'}. "
            "Expected are folders of images and label maps, such as images/train and labels/train; "
            "or name img_dir and seg_dir of train and val in own_data"
        )
    return recognised


def own_table(own: dict[str, Any]) -> Table:
    """Classes with their colours or values, of an ``own_data`` or a file in its folder."""
    root, classes = Path(own["root"]), tuple(own.get("classes") or ())
    if own.get("palette"):
        try:
            colours = tuple((int(r), int(g), int(b)) for r, g, b in own["palette"])
        except (TypeError, ValueError) as error:
            raise UserError(
                "own_data.palette has no colours: list red, green and blue of each "
                "class, as in palette=((0, 0, 0), (255, 0, 0))"
            ) from error
        if len(colours) != len(classes):
            raise UserError(
                f"own_data has {len(classes)} classes and {len(colours)} colours in palette: give "
                "one for each class"
            )
        return Table(None, classes, colours)
    table = find_table(root) if root.is_dir() else None
    if table is None or (classes and set(classes) != set(table.classes)):
        table = Table(None, classes)
    if not table.classes:
        raise UserError(
            "own_data lacks classes: label maps hold no names, so list them in the order of "
            "their pixel values, as in classes=('road', 'car'); on the command line of "
            "convert-data and inspect-data, --classes road car"
        )
    return table


def _suffixes(own: dict[str, Any], images: Path) -> tuple[str | None, str | None]:
    """As they are given; where images have another suffix than the usual one, found out."""
    usual = any(images.rglob("*.jpg"))
    return own.get("img_suffix", ".jpg" if usual else None), own.get("seg_suffix")


def _needs_conversion(found: MapFolders, table: Table, kinds: set[str]) -> bool:
    colours = table.colours is not None and kinds & {"P", "RGB", "RGBA"}
    values = table.values not in (None, tuple(range(len(table.classes))))
    suffixes = {image.suffix for pairs in found.parts.values() for image, _ in pairs}
    endings = {found.endings.get(split, "") for split in found.parts}
    one_folder = any(images == maps for images, maps in found.places.values())
    scattered = len(suffixes) > 1 or len(endings) > 1 or "" in endings or not found.places
    return bool(colours or values or kinds - set(INDICES) or scattered or one_folder)


def _use_folders(own: dict[str, Any], found: MapFolders) -> None:
    for split, (images, maps) in found.places.items():
        names = [os.path.relpath(folder, found.root) for folder in (images, maps)]
        own[split] = {"img_dir": names[0], "seg_dir": names[1]}
    own["img_suffix"] = found.parts["train"][0][0].suffix
    own["seg_suffix"] = found.endings["train"]


def zero_note(table: Table) -> str:
    """What is said where :func:`zero_is_unlabelled`."""
    return (
        f"the label maps have the values 0 to {len(table.classes)} for {len(table.classes)} "
        "classes: 0 is taken as not labelled (reduce_zero_label=True); if it is a class, name it "
        "first in classes"
    )


def zero_is_unlabelled(places: list[Path], table: Table) -> bool:
    """Whether there is one value more than classes, in a sample of the label maps."""
    if table.colours is not None or table.values is not None:
        return False
    seen: set[int] = set()
    for place in random.Random(0).sample(places, min(_READ, len(places))):
        with contextlib.suppress(UserError):  # the check of the data tells of it
            seen |= set(np.unique(read_labels(place, table)).tolist()) - {IGNORED}
    return max(seen, default=0) == len(table.classes)
