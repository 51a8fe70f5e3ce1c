"""Pascal VOC data sets: an XML file with the boxes of each image.

http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html; Roboflow's export, which has
images and XML files together in ``train``, ``valid`` and ``test``; and what labelling tools write:
XML files beside the images, or in ``annotations``.
"""

import re
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from swin_dense.datasets.formats.boxes import BoxData
from swin_dense.datasets.formats.splits import (
    IMAGE_SUFFIXES,
    SPLITS,
    read_lines,
    sizes_of,
    split_folders,
)
from swin_dense.errors import UserError

FORM = "Pascal VOC"
Objects = list[tuple[str, list[float], bool]]  # name, box and whether it is difficult


def find_voc(root: Path) -> Path | None:
    """The folder of a VOC data set at or below ``root``; None if there is none.

    Raises:
        UserError: there are several years.
    """
    if not root.is_dir():
        return None
    years = [p for p in sorted(root.glob("VOC*/VOC*")) + sorted(root.glob("VOC*")) if _has_xml(p)]
    if len(years) > 1:
        raise UserError(
            f"{root} has several data sets, {years[0]} and {years[1]}: give one of them"
        )
    if _has_xml(root):
        return root
    return years[0] if years else None


def _has_xml(root: Path) -> bool:
    folders = [*_annotation_folders(root), *split_folders(root).values()]
    return any(map(_describes_image, folders))


def _annotation_folders(root: Path) -> list[Path]:
    return [root / "Annotations", root / "annotations", root]


def _describes_image(folder: Path) -> bool:
    """Whether XML files of a folder are VOC's: where it is not VOC's own, by the first of them."""
    first = min(folder.glob("*.xml"), default=None) if folder.is_dir() else None
    if first is None or folder.name == "Annotations":
        return first is not None
    return re.search(rb"<annotation[\s>]", first.read_bytes()[:4096]) is not None


def read_voc(root: Path) -> BoxData:
    """Read a VOC data set.

    Its boxes count pixels from 1 and include the last one, so that the pixels 1 to 10 are the box
    from 0 to 10. Difficult objects become crowds, which neither train nor count, as in VOC's own
    evaluation. Classes are in alphabetical order.

    Args:
        root: what :func:`find_voc` returned.

    Raises:
        UserError: a file is missing or malformed; names it.
    """
    data, parts = BoxData(FORM, root), _xml_files(root)
    read = {path: _read(path) for paths in parts.values() for path in paths}
    names = sorted({name for _, _, objects in read.values() for name, _, _ in objects})
    if not names:
        raise UserError(f"{root}: none of its {len(read)} XML files has an object")
    images = _image_index(root)
    difficult = 0
    for split, paths in parts.items():
        part = data.add_part(split, names)
        files = [_image(path, read[path][0], images) for path in paths]
        for path, image, size in zip(paths, files, sizes_of(files), strict=True):
            _, said, objects = read[path]
            if said not in (None, size):
                raise UserError(
                    f"{path} is for {said[0]} x {said[1]} pixels, but {image} has {size[0]} x "
                    f"{size[1]} as it is loaded (turned by its EXIF tag, if it has one): correct it"
                )
            entry = part.add_image(image, size)
            for name, box, is_difficult in objects:
                difficult += is_difficult
                part.add_object(entry, names.index(name), box, crowd=is_difficult)
    data.complete()
    if difficult:
        data.notes.append(f"{difficult} difficult objects become crowds, which do not count")
    return data


def _xml_files(root: Path) -> dict[str, list[Path]]:
    """The XML files of each part: by ImageSets/Main, by folders, else all for training."""
    found = [folder for folder in _annotation_folders(root) if _describes_image(folder)]
    if not found:
        folders = split_folders(root)
        return {split: sorted(folders[split].glob("*.xml")) for split in SPLITS if split in folders}
    annotations, parts = found[0], {}
    for split in SPLITS:
        listed = root / "ImageSets" / "Main" / f"{split}.txt"
        if listed.is_file():
            parts[split] = _listed(listed, annotations, is_needed=split != "test")
    if not parts.get("train"):
        trainval = root / "ImageSets" / "Main" / "trainval.txt"
        found = _listed(trainval, annotations, True) if trainval.is_file() else []
        others = {path for paths in parts.values() for path in paths}
        found = found or sorted(annotations.rglob("*.xml"))
        parts = {"train": [path for path in found if path not in others], **parts}
    return {split: paths for split, paths in parts.items() if paths}


def _listed(path: Path, annotations: Path, is_needed: bool) -> list[Path]:
    """The XML files of the images that a file lists; VOC's own test set has none."""
    found = []
    for number, line in read_lines(path):
        xml = annotations / f"{line.split()[0]}.xml"
        if xml.is_file():
            found.append(xml)
        elif is_needed:
            raise UserError(f"{path} line {number}: there is no {xml}: add it, or remove the line")
    return found


def _image_index(root: Path) -> dict[tuple[str, str], Path]:
    """Image files by their folder and name without suffix, and by their folder and whole name."""
    folders = [root / "JPEGImages", root / "images", root, *split_folders(root).values()]
    found: dict[tuple[str, str], Path] = {}
    for folder in folders:
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.suffix.lower() in IMAGE_SUFFIXES:
                key = "" if folder.name in ("JPEGImages", "images") else str(folder)
                found.setdefault((key, path.stem), path)
                found.setdefault((key, path.name), path)
    return found


def _image(xml: Path, file_name: str, images: dict[tuple[str, str], Path]) -> Path:
    for folder in (str(xml.parent), "", str(xml.parent.parent)):
        for name in (Path(file_name).name, xml.stem):
            if (folder, name) in images:
                return images[folder, name]
    raise UserError(
        f"{xml}: there is no image {file_name or xml.stem} in JPEGImages or beside it: add it, or "
        "remove the XML file"
    )


def _read(path: Path) -> tuple[str, tuple[int, int] | None, Objects]:
    """Name of the image, its (width, height) if it is told, and its objects."""
    tree = _parse(path)
    try:
        size = tuple(int(float(_text(tree, f"size/{side}") or 0)) for side in ("width", "height"))
        objects = [_object(node) for node in tree.iter("object")]
    except ValueError as error:
        raise UserError(f"{path}: {error}: correct or export it again") from error
    return _text(tree, "filename"), (size[0], size[1]) if all(size) else None, objects


def _object(node: Element) -> tuple[str, list[float], bool]:
    name = _text(node, "name")
    if not name:
        raise ValueError("an object has no name")
    edges = {}
    for edge in ("xmin", "ymin", "xmax", "ymax"):
        text = _text(node, f"bndbox/{edge}")
        try:
            edges[edge] = float(text)
        except ValueError:
            raise ValueError(f"{edge} of an object {name!r} is {text!r}, not a number") from None
        if not abs(edges[edge]) < 1e9:
            raise ValueError(f"{edge} of an object {name!r} is {text}")
    if edges["xmax"] < edges["xmin"] or edges["ymax"] < edges["ymin"]:
        raise ValueError(f"an object {name!r} ends before it begins, at {edges}")
    box = [edges["xmin"] - 1, edges["ymin"] - 1, edges["xmax"], edges["ymax"]]
    return name, box, _text(node, "difficult") == "1"


def _text(node: Element, place: str) -> str:
    found = node.find(place)
    return (found.text or "").strip() if found is not None else ""


def _parse(path: Path) -> Element:
    """The file's tree; it may declare no entities, which can grow without end or name files."""
    builder, parser = TreeBuilder(), expat.ParserCreate()

    def refuse(*_: Any) -> None:
        raise UserError(f"{path} has a document type declaration, which annotations do not need")

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = lambda tag, attributes: builder.start(tag, attributes)
    parser.EndElementHandler = lambda tag: builder.end(tag)
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(path.read_bytes(), True)
    except expat.ExpatError as error:
        raise UserError(
            f"{path} line {error.lineno}: not XML ({expat.errors.messages[error.code]}): "
            "export it again"
        ) from error
    return builder.close()
