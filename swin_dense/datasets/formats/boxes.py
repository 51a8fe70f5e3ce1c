"""Objects with boxes and perhaps polygons, collected into the content of COCO files."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swin_dense.datasets.formats.splits import held_out
from swin_dense.datasets.names import shortened
from swin_dense.errors import UserError


@dataclass
class BoxData:
    """A data set of another format, read.

    Attributes:
        form: name of the format, for messages.
        root: folder of the data set; names of images are relative to it.
        contents: content of a COCO file for each part, ``train``, ``val`` and perhaps ``test``.
        notes: a line for each thing that was put right or left out.
    """

    form: str
    root: Path
    contents: dict[str, dict[str, list[dict[str, Any]]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, the same in all parts."""
        return tuple(c["name"] for c in self.contents["train"]["categories"])

    @property
    def has_masks(self) -> bool:
        """Whether every object that is trained or evaluated has a segmentation."""
        objects = [a for content in self.contents.values() for a in content["annotations"]]
        return bool(objects) and all(a.get("segmentation") or a["iscrowd"] for a in objects)

    def add_part(self, split: str, classes: Sequence[str]) -> "Part":
        """Begin a part."""
        categories = [{"id": i, "name": name} for i, name in enumerate(classes, start=1)]
        self.contents[split] = {"images": [], "annotations": [], "categories": categories}
        return Part(self.root, self.contents[split])

    def reorder(self, classes: Sequence[str]) -> None:
        """Bring the classes into another order, by which labels are numbered.

        Raises:
            UserError: these are not the classes of the data set.
        """
        if sorted(classes) != sorted(self.classes):
            raise UserError(
                f"{self.root} has the classes {shortened(self.classes, 20)}, not "
                f"{shortened(classes, 20)}: name the same ones"
            )
        for content in self.contents.values():
            content["categories"].sort(key=lambda category: classes.index(category["name"]))

    def complete(self) -> None:
        """Hold images out for validation if there are none; see that there is something to train.

        Raises:
            UserError: there are no images to train on.
        """
        if not self.contents.get("train", {}).get("images"):
            raise UserError(
                f"{self.root}: no training images found in this {self.form} data set: put them "
                "there, or correct its list of training images"
            )
        if not self.contents.get("val", {}).get("images"):
            whole = self.contents["train"]
            self.contents["train"], self.contents["val"] = hold_out(whole)
            self.notes.append(held_out_note(len(self.contents["val"]["images"]), whole["images"]))


class Part:
    """The images and objects of one part."""

    def __init__(self, root: Path, content: dict[str, list[dict[str, Any]]]) -> None:
        self._root = os.path.abspath(root)
        self.content = content

    def add_image(self, path: Path, size: tuple[int, int]) -> dict[str, Any]:
        """An image of that (width, height) in pixels; returns its entry."""
        name = os.path.abspath(path)
        if name.startswith(self._root + os.sep):  # else another folder has it, by its whole path
            name = os.path.relpath(name, self._root)
        images = self.content["images"]
        images.append(
            {"id": len(images) + 1, "file_name": name, "width": size[0], "height": size[1]}
        )
        return images[-1]

    def add_object(
        self,
        image: dict[str, Any],
        label: int,
        box: Sequence[float],
        polygon: Sequence[float] = (),
        crowd: bool = False,
    ) -> None:
        """An object of an image.

        Args:
            image: from :meth:`add_image`.
            label: index of its class.
            box: left, top, right and bottom in pixels; what is outside of the image is cut off.
            polygon: x and y of each point, in pixels.
            crowd: whether neither finding nor missing it counts.
        """
        left, right = (min(max(x, 0), image["width"]) for x in (box[0], box[2]))
        top, bottom = (min(max(y, 0), image["height"]) for y in (box[1], box[3]))
        width, height = right - left, bottom - top
        annotation = {
            "id": len(self.content["annotations"]) + 1,
            "image_id": image["id"],
            "category_id": label + 1,
            "bbox": [round(v, 3) for v in (left, top, width, height)],
            "area": round(polygon_area(polygon) if polygon else width * height, 3),
            "iscrowd": int(crowd),
        }
        if polygon:
            annotation["segmentation"] = [[round(v, 3) for v in polygon]]
        self.content["annotations"].append(annotation)


def hold_out(content: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Divide the content of a COCO file: for training, and one image in five for validation."""
    chosen = held_out([image["file_name"] for image in content["images"]])
    parts = []
    for validates in (False, True):
        images = [i for i in content["images"] if (i["file_name"] in chosen) == validates]
        if not images:  # there is one image
            images = content["images"]
        ids = {image["id"] for image in images}
        annotations = [a for a in content["annotations"] if a["image_id"] in ids]
        parts.append({**content, "images": images, "annotations": annotations})
    return parts[0], parts[1]


def held_out_note(count: int, images: Sequence[Any]) -> str:
    """What is said of :func:`hold_out`."""
    return (
        f"there is no validation set: {count} of the {len(images)} images, chosen by the hash of "
        "their names, are held out of training for it"
    )


def polygon_area(polygon: Sequence[float]) -> float:
    """The area inside a polygon, in square pixels (the shoelace formula)."""
    points = list(zip(polygon[::2], polygon[1::2], strict=True))
    following = points[1:] + points[:1]
    pairs = zip(points, following, strict=True)
    return abs(sum(x * next_y - next_x * y for (x, y), (next_x, next_y) in pairs)) / 2
