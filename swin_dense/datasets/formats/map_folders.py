"""Folders of images and label maps: which map belongs to which image, and to which part."""

from dataclasses import dataclass, field
from pathlib import Path

from swin_dense.datasets.formats.splits import (
    IMAGE_SUFFIXES,
    SPLITS,
    held_out,
    images_below,
    read_lines,
    split_folders,
)
from swin_dense.errors import UserError

# Names of folders, in the order in which they are looked for.
_IMAGES = ("images", "image", "imgs", "img", "img_dir", "JPEGImages", "rgb")
_MAPS = (
    *("annotations", "labels", "label", "masks", "mask", "ann_dir", "seg_dir", "segs", "seg"),
    *("SegmentationClass", "segmentation", "label_maps", "gt"),
)
_BESIDE = "_mask"  # Roboflow's ending of label maps beside their images
Pair = tuple[Path, Path]


@dataclass
class MapFolders:
    """Images and their label maps.

    Attributes:
        root: folder of the data set.
        parts: (image, label map) of each image of ``train``, ``val`` and perhaps ``test``.
        places: folders of images and maps of each part, where they hold that part alone.
        endings: what names of label maps have for the suffix of their images, for each of places.
        notes: a line for each thing to know.
    """

    root: Path
    parts: dict[str, list[Pair]] = field(default_factory=dict)
    places: dict[str, Pair] = field(default_factory=dict)
    endings: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def find_maps(root: Path) -> MapFolders | None:
    """Find images with label maps in a folder; None if there are none.

    Known are ``images/train`` with ``labels/train`` (and other names for these), ``train/images``
    with ``train/labels``, ``train`` with ``train_labels``, Pascal VOC's ``JPEGImages`` with
    ``SegmentationClass``, and Roboflow's, where both are in ``train``. Where no folder or list is
    for validation, one image in five is held out.

    Raises:
        UserError: an image has no label map, or a list names one that is not there.
    """
    found = MapFolders(root)
    for split, (images, maps) in _part_folders(root).items():
        found.places[split] = (images, maps)
        found.parts[split], found.endings[split] = pair_up(images, maps)
    if not found.parts and (folders := _folders(root)) is not None:
        found.parts = _listed_parts(root, pair_up(*folders)[0])
    found.parts = {split: pairs for split, pairs in found.parts.items() if pairs}
    if "train" not in found.parts:
        return None
    if "val" not in found.parts:
        pairs, found.places = found.parts["train"], {}
        chosen = held_out([image.name for image, _ in pairs])
        found.parts["val"] = [pair for pair in pairs if pair[0].name in chosen]
        found.parts["train"] = [pair for pair in pairs if pair[0].name not in chosen] or pairs
        found.notes.append(
            f"there is no validation set: {len(found.parts['val'])} of the {len(pairs)} images, "
            "chosen by the hash of their names, are held out of training for it"
        )
    return found


def _part_folders(root: Path) -> dict[str, Pair]:
    """Folders of images and label maps for each part; the same one if it holds both."""
    if (folders := _folders(root)) is not None:
        images, maps = map(split_folders, folders)
        return {
            split: (images[split], maps[split])
            for split in SPLITS
            if split in images and split in maps
        }
    found = {}
    for split, folder in split_folders(root).items():
        beside = [root / f"{folder.name}_{name}" for name in _MAPS]
        beside = [path for path in beside if path.is_dir()]
        if (inner := _folders(folder)) is not None:
            found[split] = inner
        elif beside:
            found[split] = (folder, beside[0])
        elif any(path.stem.endswith(_BESIDE) for path in folder.glob("*.png")):
            found[split] = (folder, folder)
    return found


def _folders(root: Path) -> Pair | None:
    images = [root / name for name in _IMAGES if (root / name).is_dir()]
    maps = [root / name for name in _MAPS if (root / name).is_dir() and _has_maps(root / name)]
    return (images[0], maps[0]) if images and maps else None


def _has_maps(folder: Path) -> bool:
    return any(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.rglob("*"))


def pair_up(
    images: Path, maps: Path, img_suffix: str | None = None, seg_suffix: str | None = None
) -> tuple[list[Pair], str]:
    """Each image with its label map: that of its name, with an ending that is the same for all.

    Args:
        images: folder of the images.
        maps: folder of the label maps, which may be the same.
        img_suffix: how the names of images end; else every image counts.
        seg_suffix: what takes its place in the names of label maps; else it is found out.

    Returns:
        The pairs, and the ending with suffix; empty if suffixes differ.

    Raises:
        UserError: an image has no label map.
    """
    files = [path for path in images_below(images) if path.name.endswith(img_suffix or "")]
    if images == maps:
        files = [path for path in files if not path.stem.endswith(_BESIDE)]
    stems = [str(path.relative_to(images))[: -len(img_suffix or path.suffix)] for path in files]
    others = set(files) if images == maps else set()
    found_maps = [path for path in images_below(maps) if path not in others]
    places = {str(path.relative_to(maps)): path for path in found_maps}
    found, pairs = seg_suffix, []
    if found is None:
        places = {str(Path(name).with_suffix("")): path for name, path in places.items()}
        found = _ending(stems[0], places) if stems else ""
    for path, stem in zip(files, stems, strict=True):
        if found is None or stem + found not in places:
            raise UserError(
                f"{path} has no label map {stem}{found or ''} in {maps}: add it, or remove the "
                "image"
            )
        pairs.append((path, places[stem + found]))
    if seg_suffix is None:
        endings = {f"{found}{place.suffix}" for _, place in pairs}
        found = endings.pop() if len(endings) == 1 else ""
    return pairs, found or ""


def _ending(stem: str, places: dict[str, Path]) -> str | None:
    """The shortest that some label map adds to the first image's name."""
    endings = [name[len(stem) :] for name in places if name.startswith(stem)]
    endings = [end for end in endings if not end or not end[0].isalnum()]
    return min(endings, key=len, default=None)


def _listed_parts(root: Path, pairs: list[Pair]) -> dict[str, list[Pair]]:
    """The parts that files list; all for training if there are none."""
    by_name = {image.stem: (image, place) for image, place in pairs}
    parts: dict[str, list[Pair]] = {}
    for folder in (root / "ImageSets" / "Segmentation", root):
        for split in SPLITS:
            path = folder / f"{split}.txt"
            if split in parts or not path.is_file():
                continue
            parts[split] = []
            for number, line in read_lines(path):
                stem = Path(line).stem if Path(line).suffix in IMAGE_SUFFIXES else Path(line).name
                if stem not in by_name and split != "test":
                    raise UserError(f"{path} line {number}: {stem} has no image and label map")
                if stem in by_name:
                    parts[split].append(by_name[stem])
    return parts if parts.get("train") else {"train": pairs}
