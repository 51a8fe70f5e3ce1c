"""Predicting on a user's images and videos: pictures, and everything in JSON."""

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.markup import escape
from rich.progress import Progress

from swin_dense.datasets.coco_file import read_coco
from swin_dense.engine.coco_results import CocoResults, rle
from swin_dense.engine.drawing import class_name
from swin_dense.engine.images import (
    UnreadableImageError,
    quiet_decoders,
    read_image,
    write_image,
)
from swin_dense.engine.inputs import Inputs, Skipped, Source, find_inputs
from swin_dense.engine.launch import choose_device
from swin_dense.engine.paths import checkpoint_file, make_output_dir, output_errors
from swin_dense.engine.prediction import Prediction, draw_prediction, from_sample
from swin_dense.engine.predictor import Predictor
from swin_dense.engine.terminal.console import console, notify_user, quiet_terminal
from swin_dense.engine.video import VideoReader, replace_video
from swin_dense.errors import UserError
from swin_dense.files import write_json

FORMATS = ("json", "coco")
_SCORE_THR = 0.3


def predict(
    config: str | Path,
    checkpoint: str | Path,
    images: Inputs,
    out: str | Path,
    *,
    device: str = "auto",
    score_thr: float | None = None,
    batch_size: int = 1,
    cfg_options: Mapping[str, Any] | None = None,
    format: str = "json",
    ann_file: str | Path | None = None,
) -> dict[str, Any]:
    """Predicts on images and videos, as ``tools/predict.py`` does.

    Written to ``out``: a picture or a video for each, under its name; ``predictions.json``; for
    segmentation, ``label_maps/*.png`` whose pixels are class indices (0: the first class), of
    images alone. In COCO's format, ``predictions.json`` is a list of results and ``images.json``
    has the images and categories, with their ids.

    Args:
        config, checkpoint, device, cfg_options: as of :func:`~swin_dense.engine.test.evaluate`.
        images: one or several of what :func:`~swin_dense.engine.inputs.find_inputs` takes.
        out: folder for the results.
        score_thr: detections below this score are dropped. By default 0.3; COCO's format then has
            all of them, as evaluations need, and only the pictures those from 0.3 on.
        batch_size: images that go through the model together.
        format: of the detections in ``predictions.json``: 'json' (docs/prediction.md) or 'coco'.
        ann_file: for 'coco', the annotation file with the ids of the images and categories.

    Returns:
        What ``predictions.json`` holds in the format 'json' (in 'coco', without the detections).
        ``images`` and ``videos`` have an entry for each that could be read; ``skipped`` names the
        others, with the reason, and ``other_files`` what is neither.

    Raises:
        UserError: something that was given is missing or does not fit, or no image can be read.
    """
    with (
        quiet_terminal(),
        output_errors({"--out": out}),
        tempfile.TemporaryDirectory() as downloads,
    ):
        checkpoint = checkpoint_file(checkpoint)
        (sources, others), out = find_inputs(images), Path(out)
        _check_arguments(out, sources, format, ann_file)
        predictor = Predictor(config, checkpoint, choose_device(device), cfg_options)
        coco = _coco_results(predictor, config, ann_file) if format == "coco" else None
        make_output_dir(out, "--out")
        files = _FilePredictor(out, Path(downloads), predictor, score_thr, coco)
        files.predict_all(sources, max(batch_size, 1))
        document = {"config": str(config), "checkpoint": str(checkpoint), **files.document()}
        document["other_files"] = [_skip_entry(one) for one in others]
        if coco is not None:
            left_out = {name: document[name] for name in ("skipped", "other_files")}
            write_json(out / "images.json", coco.images | left_out)
        write_json(out / "predictions.json", document if coco is None else coco.results)
        notify_user(f"{files.counts()} and predictions.json: {out}")
        return document


# What the numbers of detections in the JSON are.
_UNITS = {
    "bbox_format": "xyxy",  # left, top, right, bottom
    "bbox_unit": "pixels",
    "mask_format": "compressed RLE of COCO",
}


def task_entries(is_segmentation: bool, classes: Sequence[str]) -> dict[str, Any]:
    """What predictions are of, as JSON: ``task``, ``classes``, and formats and units if any."""
    task = "segmentation" if is_segmentation else "detection"
    return {"task": task, "classes": list(classes), **({} if is_segmentation else _UNITS)}


def found_entries(prediction: Prediction) -> dict[str, Any]:
    """What was found in an image, as JSON: ``instances``, or ``areas`` of a label map."""
    if prediction.label_map is not None:
        return {"areas": class_areas(prediction.label_map, prediction.classes)}
    return {"instances": instance_entries(prediction)}


def instance_entries(prediction: Prediction) -> list[dict[str, Any]]:
    """The detections of an image as JSON entries, highest score first.

    Returns:
        For each: ``label`` (index), ``class`` (name), ``score``, ``bbox`` (left, top, right,
        bottom in pixels) and, if the model has masks, ``mask`` (COCO's compressed RLE).
    """
    entries = []
    for i, name in enumerate(prediction.names):
        entry = {
            "label": int(prediction.labels[i]),
            "class": name,
            "score": round(float(prediction.scores[i]), 4),
            "bbox": [round(value, 2) for value in prediction.boxes[i].tolist()],
        }
        if prediction.masks is not None:
            entry["mask"] = rle(prediction.masks[i])
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
    """Writes a picture or video, and a segmentor's label maps; collects the JSON entries."""

    def __init__(
        self,
        out: Path,
        downloads: Path,
        predictor: Predictor,
        score_thr: float | None,
        coco: CocoResults | None,
    ) -> None:
        self.out, self.downloads, self.predictor, self.coco = out, downloads, predictor, coco
        self.drawn_thr = _SCORE_THR if score_thr is None else score_thr
        self.score_thr = 0.0 if score_thr is None and coco is not None else self.drawn_thr
        self.images: list[dict[str, Any]] = []
        self.videos: list[dict[str, Any]] = []
        self.skipped: list[Skipped] = []
        self._taken: set[str] = set()

    def predict_all(self, sources: Sequence[Source], size: int) -> None:
        """Predicts on the images, in batches of a size, and on the videos, with progress bars."""
        images = [source for source in sources if not source.is_video]
        with Progress(console=console()) as progress:
            if images:
                for start in progress.track(range(0, len(images), size), description="predict"):
                    self._predict_images(images[start : start + size])
            for source in sources:
                if source.is_video:
                    try:
                        self._predict_video(source, progress, size)
                    except UnreadableImageError as error:
                        self.skipped.append(Skipped(source.given, str(error)))

    def counts(self) -> str:
        """What was written, in words."""
        found = {"pictures": len(self.images), "videos": len(self.videos)}
        return ", ".join(f"{count} {what}" for what, count in found.items() if count)

    def document(self) -> dict[str, Any]:
        """What was found, for ``predictions.json``.

        Raises:
            UserError: no image or video could be read.
        """
        if not self.images and not self.videos:
            first, number = self.skipped[0], len(self.skipped)
            raise UserError(f"none of {number} images can be read; {_name(first)}: {first.reason}")
        return {
            **task_entries(self.predictor.is_segmentation, self.predictor.classes),
            "images": self.images,
            "videos": self.videos,
            "skipped": [_skip_entry(one) for one in self.skipped],
        }

    def _predict_images(self, sources: Sequence[Source]) -> None:
        images, packed = {}, []
        for source in sources:
            try:
                path = self._file(source)
                with quiet_decoders():
                    image = read_image(path)
                packed.append(self.predictor.prepare(image))
                images[source] = image
            except UnreadableImageError as error:
                self.skipped.append(Skipped(source.given, str(error)))
        for source, prediction in zip(images, self._predict(images.values(), packed), strict=True):
            self._write(source, prediction)

    def _predict_video(self, source: Source, progress: Progress, size: int) -> None:
        reader = VideoReader(self._file(source))
        name = unique_name(f"{Path(source.name).stem}.mp4", self._taken)
        entries: list[dict[str, Any]] = []
        with replace_video(self.out / name, reader.rate) as writer:
            frames = progress.track(reader, total=reader.length, description=escape(source.name))
            for batch in _batches(frames, size):
                packed = [self.predictor.prepare(frame) for frame in batch]
                for prediction in self._predict(batch, packed):
                    number = len(entries)
                    entries.append({"frame": number, **self._found(source, prediction, number)})
                    writer.write(draw_prediction(prediction, self.drawn_thr))
        if not entries:
            raise UnreadableImageError("no frame of it can be read")
        if reader.length is not None and len(entries) < reader.length:
            reason = f"{len(entries)} of the {reader.length} frames that it tells of can be read"
            self.skipped.append(Skipped(source.given, reason))
        height, width = prediction.image.shape[:2]
        size_and_rate = {"width": width, "height": height, "frames_per_second": reader.rate}
        entry = {"file": source.name, "source": source.given, "video": name, **size_and_rate}
        self.videos.append({**entry, "frames": entries})

    def _file(self, source: Source) -> Path:
        if self.coco is not None:
            self.coco.check(source)
        return source.local(self.downloads)

    def _predict(
        self, images: Iterable[NDArray[np.uint8]], packed: Sequence[dict[str, Any]]
    ) -> Iterator[Prediction]:
        samples = self.predictor.predict_prepared(packed)
        for image, sample in zip(images, samples, strict=True):
            yield from_sample(sample, image, self.predictor.meta, self.score_thr)

    def _write(self, source: Source, prediction: Prediction) -> None:
        path = Path(source.name)
        name = path.name if path.suffix.lower() in (".jpg", ".jpeg", ".png") else f"{path.stem}.png"
        picture = unique_name(name, self._taken)
        write_image(self.out / picture, draw_prediction(prediction, self.drawn_thr))
        height, width = prediction.image.shape[:2]
        size = {"width": width, "height": height}
        entry = {"file": path.name, "source": source.given, "picture": picture, **size}
        if prediction.label_map is not None:
            name = unique_name(f"label_maps/{path.stem}.png", self._taken)
            write_image(self.out / name, prediction.label_map)
            entry["label_map"] = name
        self.images.append({**entry, **self._found(source, prediction)})

    def _found(
        self, source: Source, prediction: Prediction, frame: int | None = None
    ) -> dict[str, Any]:
        if self.coco is not None:
            self.coco.add(source, prediction, frame)
            return {}
        return found_entries(prediction)


def _batches(frames: Iterable[NDArray[np.uint8]], size: int) -> Iterator[list[NDArray[np.uint8]]]:
    remaining = iter(frames)
    while batch := list(islice(remaining, size)):
        yield batch


def _check_arguments(
    out: Path, sources: Sequence[Source], format: str, ann_file: str | Path | None
) -> None:
    """Raises a UserError if the results would replace images, or flags do not fit each other."""
    if any(out.resolve() == Path(s.given).parent.resolve() for s in sources if not s.is_url):
        raise UserError(f"--out {out} is where the images are: pictures would replace them")
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: give a folder")
    if format not in FORMATS:
        raise UserError(f"unknown format {format!r}: give {' or '.join(FORMATS)}")
    if ann_file is not None:
        if format != "coco":
            raise UserError("--ann-file gives ids to --format coco: add that")
        read_coco(ann_file, need_annotations=False)


def _coco_results(
    predictor: Predictor, config: str | Path, ann_file: str | Path | None
) -> CocoResults:
    if predictor.is_segmentation:
        raise UserError(
            f"--format coco is for detections, and {config} is of a segmentor, whose results are "
            "the label maps: leave it out"
        )
    return CocoResults(predictor.cfg, predictor.classes, ann_file)


def _name(skipped: Skipped) -> str:
    return Source(skipped.given).name


def _skip_entry(skipped: Skipped) -> dict[str, str]:
    return {"file": _name(skipped), "source": skipped.given, "reason": skipped.reason}
