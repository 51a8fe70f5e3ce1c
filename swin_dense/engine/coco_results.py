"""Detections in COCO's format of results, with the ids of a data set."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights as CocoWeights

from swin_dense import config_tree
from swin_dense.datasets.coco_file import read_coco
from swin_dense.datasets.image_files import UnreadableImageError
from swin_dense.engine.inputs import Source
from swin_dense.engine.prediction import Prediction
from swin_dense.engine.terminal.console import notify_user
from swin_dense.errors import UserError


class CocoResults:
    """Collects results as ``pycocotools``' ``loadRes`` takes them, and the images they are of.

    Args:
        cfg: the detector's config, whose data sets' annotation files may have the categories.
        classes: the names of its classes.
        ann_file: an annotation file with the ids of images and categories.

    Attributes:
        results: an entry for each object: image_id, category_id, bbox (left, top, width, height in
            pixels), score and, if the model has masks, segmentation (compressed RLE).

    Raises:
        UserError: ``ann_file`` is missing or broken, or has none of the classes.
    """

    def __init__(self, cfg: Config, classes: Sequence[str], ann_file: str | Path | None) -> None:
        self._ann_file = ann_file
        self._image_ids = None if ann_file is None else _image_ids(ann_file)
        self._category_ids = _category_ids(cfg, classes, ann_file)
        self._classes = classes
        self._images: list[dict[str, Any]] = []
        self.results: list[dict[str, Any]] = []

    def check(self, source: Source) -> None:
        """Whether an image has an id.

        Raises:
            UnreadableImageError: the annotation file does not have it: others would refuse an id.
        """
        if self._image_ids is not None and self._given_id(source) is None:
            raise UnreadableImageError(f"not an image of {self._ann_file}")

    def add(self, source: Source, prediction: Prediction, frame: int | None = None) -> None:
        """Adds the objects of an image, or of a video's frame."""
        given = self._given_id(source)
        image_id = len(self._images) + 1 if given is None else given
        height, width = prediction.image.shape[:2]
        entry = {"id": image_id, "file_name": source.given, "width": width, "height": height}
        self._images.append(entry if frame is None else {**entry, "frame": frame})
        for i, (left, top, right, bottom) in enumerate(prediction.boxes.tolist()):
            result = {
                "image_id": image_id,
                "category_id": self._category_ids[int(prediction.labels[i])],
                "bbox": [left, top, right - left, bottom - top],
                "score": float(prediction.scores[i]),
            }
            if prediction.masks is not None:
                result["segmentation"] = rle(prediction.masks[i])
            self.results.append(result)

    @property
    def images(self) -> dict[str, Any]:
        """The images and categories with their ids, as an annotation file without annotations."""
        pairs = zip(self._category_ids, self._classes, strict=True)
        categories = [{"id": number, "name": name} for number, name in pairs]
        return {"images": self._images, "annotations": [], "categories": categories}

    def _given_id(self, source: Source) -> Any:
        """The id of the image whose name, with its folders if it has some, ends the path."""
        parts = Path(source.given if source.is_url else Path(source.given).absolute()).parts
        tails = ("/".join(parts[start:]) for start in range(len(parts)))
        ids = self._image_ids or {}
        return next((ids[tail] for tail in tails if tail in ids), None)


def rle(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """COCO's compressed run-length encoding of a mask (H, W), for JSON."""
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": encoded["size"], "counts": encoded["counts"].decode("ascii")}


def _image_ids(ann_file: str | Path) -> dict[str, Any]:
    read_coco(ann_file, need_annotations=False)  # checks it
    images = json.loads(Path(ann_file).read_text("utf-8-sig"))["images"]
    return {Path(image["file_name"]).as_posix(): image["id"] for image in images}


def _category_ids(cfg: Config, classes: Sequence[str], ann_file: str | Path | None) -> list[int]:
    """The category id of each label: of the annotation file, else of the config's data, or COCO."""
    known: dict[str, int] = {}
    if ann_file is not None:
        known = _by_name(ann_file)
        if not set(classes) & set(known):
            raise UserError(
                f"{ann_file} has none of the model's classes ({', '.join(classes[:3])}, ...): give "
                "the annotation file of its data set"
            )
    else:
        of_coco = CocoWeights.COCO_V1.meta["categories"]
        official = {name: i for i, name in enumerate(of_coco) if name[:2] not in ("__", "N/")}
        candidates = [*_of_datasets(cfg), *([official] if set(official) == set(classes) else [])]
        known = next((one for one in candidates if set(classes) <= set(one)), {})
    unknown = [name for name in classes if name not in known]
    highest = max([0, *known.values()])
    new = {name: highest + number for number, name in enumerate(unknown, start=1)}
    if ann_file is not None and unknown:
        notify_user(f"warning: {ann_file} lacks categories of the model: their new ids are {new}")
    return [{**known, **new}[name] for name in classes]


def _of_datasets(cfg: Config) -> list[dict[str, int]]:
    """The categories of the annotation files of the config's data sets that are there."""
    found = []
    for split in ("test", "val", "train"):
        for dataset in config_tree.split_datasets(cfg, split):
            path = config_tree.resolve(dataset, dataset.get("ann_file") or "")
            if path.suffix == ".json" and path.is_file():
                try:
                    found.append(_by_name(path))
                except UserError:  # it is of no use here
                    continue
    return found


def _by_name(ann_file: str | Path) -> dict[str, int]:
    categories = read_coco(ann_file, need_annotations=False).categories
    return {name: number for number, name in categories.items()}
