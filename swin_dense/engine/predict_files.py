"""Predicting on a user's images: a picture for each, and everything in one JSON file."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from rich.progress import track

from swin_dense.engine.drawing import class_name, draw_sample
from swin_dense.engine.images import UnreadableImageError, find_images, read_image, write_image
from swin_dense.engine.launch import choose_device
from swin_dense.engine.paths import checkpoint_file, make_output_dir, output_errors
from swin_dense.engine.predictor import Predictor
from swin_dense.engine.terminal.console import console, notify_user, quiet_terminal
from swin_dense.errors import UserError
from swin_dense.files import write_json


def predict(
    config: str | Path,
    checkpoint: str | Path,
    images: str | Path,
    out: str | Path,
    *,
    device: str = "auto",
    score_thr: float = 0.3,
    batch_size: int = 1,
    cfg_options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Predicts on an image or a folder of images, as ``tools/predict.py`` does.

    Written to ``out``: a picture for each image, under its name; ``predictions.json``; for
    segmentation, ``label_maps/*.png`` whose pixels are class indices (0: the first class).

    Args:
        config, checkpoint, device, cfg_options: as of :func:`~swin_dense.engine.test.evaluate`.
        images: an image, or a folder of them.
        out: folder for the results.
        score_thr: detections below this score are dropped.
        batch_size: images that go through the model together.

    Returns:
        What ``predictions.json`` holds. ``images`` has an entry for each image that could be read;
        ``skipped`` names the others, with the reason.

    Raises:
        UserError: something that was given is missing or does not fit, or no image can be read.
    """
    with quiet_terminal(), output_errors({"--out": out}):
        checkpoint = checkpoint_file(checkpoint)
        paths, out = find_images(images), Path(out)
        if out.resolve() == paths[0].parent.resolve():
            raise UserError(f"--out {out} is where the images are: pictures would replace them")
        if out.exists() and not out.is_dir():
            raise UserError(f"--out {out} is a file: give a folder")
        predictor = Predictor(config, checkpoint, choose_device(device), cfg_options)
        make_output_dir(out, "--out")
        files = _FilePredictor(out, predictor, score_thr)
        size = max(batch_size, 1)
        for start in track(range(0, len(paths), size), "predict", console=console()):
            files.predict(paths[start : start + size])
        if not files.entries:
            file, reason = next(iter(files.skipped.items()))
            raise UserError(f"none of {len(paths)} images can be read; {file}: {reason}")
        document = {
            "config": str(config),
            "checkpoint": str(checkpoint),
            "task": "segmentation" if predictor.is_segmentation else "detection",
            "classes": list(predictor.classes),
            "images": files.entries,
            "skipped": [{"file": file, "reason": reason} for file, reason in files.skipped.items()],
        }
        write_json(out / "predictions.json", document)
        notify_user(f"{len(files.entries)} pictures and predictions.json: {out}")
        return document


def instance_entries(sample: Any, classes: Sequence[str], score_thr: float) -> list[dict[str, Any]]:
    """The detections of a data sample as JSON entries, highest score first.

    Returns:
        For each: ``label`` (index), ``class`` (name), ``score``, ``bbox`` (left, top, right,
        bottom in pixels) and, if the model has masks, ``mask`` (COCO's compressed RLE).
    """
    found = sample.pred_instances
    found = found[found.scores >= score_thr].cpu()
    entries = []
    for i in found.scores.argsort(descending=True).tolist():
        label = int(found.labels[i])
        entry = {
            "label": label,
            "class": class_name(classes, label),
            "score": round(float(found.scores[i]), 4),
            "bbox": [round(float(v), 2) for v in found.bboxes[i]],
        }
        if "masks" in found:
            rle = coco_mask.encode(np.asfortranarray(found.masks[i].numpy().astype(np.uint8)))
            entry["mask"] = {"size": rle["size"], "counts": rle["counts"].decode("ascii")}
        entries.append(entry)
    return entries


def class_areas(label_map: NDArray, classes: Sequence[str]) -> list[dict[str, Any]]:
    """The area of each class in a label map, largest first: pixels and fraction."""
    labels, counts = np.unique(label_map, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    areas = []
    for label, pixels in zip(labels[order].tolist(), counts[order].tolist(), strict=True):
        fraction = round(pixels / label_map.size, 4)
        entry = {"label": label, "class": class_name(classes, label)}
        areas.append({**entry, "pixels": pixels, "fraction": fraction})
    return areas


def unique_name(name: str, taken: set[str]) -> str:
    """A file name, with a number before its suffix if it is in ``taken``, to which it is added."""
    stem, suffix = os.path.splitext(name)
    candidate, number = name, 2
    while candidate in taken:
        candidate, number = f"{stem}_{number}{suffix}", number + 1
    taken.add(candidate)
    return candidate


class _FilePredictor:
    """Writes a picture, and a segmentor's label map, of each image; collects the JSON entries."""

    def __init__(self, out: Path, predictor: Predictor, score_thr: float) -> None:
        self.out, self.predictor, self.score_thr = out, predictor, score_thr
        self.entries: list[dict[str, Any]] = []
        self.skipped: dict[str, str] = {}  # files that cannot be read, with the reason
        self._taken: set[str] = set()

    def predict(self, paths: Sequence[Path]) -> None:
        images = {}
        for path in paths:
            try:
                image = read_image(path)
                self.predictor.check_size(image)
                images[path] = image
            except UnreadableImageError as error:
                self.skipped[path.name] = str(error)
        packed = {}
        for path, image in images.items():
            try:
                packed[path] = self.predictor.prepare(image)
            except Exception as error:  # images of some pixels' width have none when resized
                height, width = image.shape[:2]
                reason = " ".join(str(error).split())
                self.skipped[path.name] = f"cannot be resized from {width} x {height}: {reason}"
        samples = self.predictor.predict_prepared(list(packed.values()))
        for path, sample in zip(packed, samples, strict=True):
            self._write(path, images[path], sample)

    def _write(self, path: Path, image: NDArray[np.uint8], sample: Any) -> None:
        name = path.name if path.suffix.lower() in (".jpg", ".jpeg", ".png") else f"{path.stem}.png"
        picture = unique_name(name, self._taken)
        drawn = draw_sample(image, sample, self.predictor.meta, self.score_thr)
        write_image(self.out / picture, drawn)
        height, width = image.shape[:2]
        entry = {"file": path.name, "picture": picture, "width": width, "height": height}
        classes = self.predictor.classes
        if self.predictor.is_segmentation:
            label_map = sample.pred_sem_seg.data.squeeze(0).cpu().numpy()
            name = unique_name(f"label_maps/{path.stem}.png", self._taken)
            depth = np.uint8 if len(classes) <= 256 else np.uint16
            write_image(self.out / name, label_map.astype(depth))
            entry["label_map"] = name
            entry["areas"] = class_areas(label_map, classes)
        else:
            entry["instances"] = instance_entries(sample, classes, self.score_thr)
        self.entries.append(entry)
