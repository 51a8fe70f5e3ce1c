"""Drawing predictions on images, and the hook that does so during a test.

The visualizers of mmdet and mmseg take one to two seconds per image, cover objects with opaque
colour and draw on the first process only; hence these functions on OpenCV.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.hooks import Hook
from numpy.typing import NDArray

from swin_dense.engine.images import UnreadableImageError, read_image, write_image
from swin_dense.registry import HOOKS

Image = NDArray[np.uint8]
Colour = tuple[int, int, int]

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_READABLE = 384  # pixels of the long side; in smaller pictures, labels would hide the objects
_GOLDEN = 0.618033988749895  # steps of this fraction spread hues evenly, however many there are


def draw_detections(
    image: Image,
    boxes: NDArray,
    labels: NDArray,
    scores: NDArray | None,
    classes: Sequence[str],
    masks: NDArray | None = None,
) -> Image:
    """Draws boxes with class name and score, and masks, in their class's colour, on a copy.

    A name that finds no place near its box where it hides no other one is left out.

    Args:
        image: (H, W, 3) BGR, as is the result.
        boxes: (n, 4), left, top, right, bottom in pixels.
        labels: (n,) indices into ``classes``.
        scores: (n,) between 0 and 1, or None.
        masks: (n, H, W) booleans, or None.
    """
    canvas = image.copy()
    thickness = line_width(image)
    corners = np.rint(boxes).astype(int).tolist()
    # The highest score last, on top of the others; all masks below all boxes below all names.
    order = range(len(boxes)) if scores is None else np.argsort(scores).tolist()
    colours = [class_colour(int(label)) for label in labels]
    for i in order:
        if masks is not None and masks[i].any():
            _blend_mask(canvas, np.asarray(masks[i], dtype=bool), colours[i], thickness)
    for i in order:
        left, top, right, bottom = corners[i]
        cv2.rectangle(canvas, (left, top), (right, bottom), colours[i], thickness, cv2.LINE_AA)
    plates = _Plates(canvas)
    for i in reversed(order):  # the highest score chooses first
        score = "" if scores is None else f" {scores[i]:.2f}"
        text = class_name(classes, int(labels[i])) + score
        plates.write(text, _around_box(corners[i], *plates.size(text)), colours[i])
    return canvas


def draw_segmentation(
    image: Image,
    label_map: NDArray,
    classes: Sequence[str],
    palette: Sequence[Sequence[int]] | None = None,
    opacity: float = 0.5,
) -> Image:
    """Colours each class on a copy of the image and writes its name in its widest part.

    Args:
        image: (H, W, 3) BGR, as is the result.
        label_map: (H, W) indices into ``classes``; others (255: ignored) stay uncoloured.
        palette: an RGB colour for each class; without it, colours are generated.
        opacity: of the colours, 0 to 1.
    """
    canvas = image.copy()
    places = []
    for label in np.unique(label_map).tolist():
        if label < len(classes):
            region = label_map == label
            colour = class_colour(label, palette)
            canvas[region] = _blend(canvas[region], colour, opacity)
            places.append((label, colour, *_largest_disc(region)))
    plates = _Plates(canvas)
    for label, colour, (x, y), radius in sorted(places, key=lambda place: -place[3]):
        if radius > 2 * line_width(image):  # a name on a sliver would hide its neighbours
            text = class_name(classes, label)
            width, height = plates.size(text)
            left, top = x - width // 2, y - height // 2
            plates.write(text, [(left, top), (left, y), (left, y - height)], colour)
    return canvas


def draw_sample(
    image: Image, sample: Any, meta: dict[str, Any], score_thr: float = 0.3, truth: bool = False
) -> Image:
    """Draws a prediction, or the ground truth, that mmdet or mmseg keeps in a data sample.

    Images of up to 192 pixels are enlarged by an integer factor, so that labels can be read.

    Args:
        image: (H, W, 3) BGR, of the size that the sample's boxes and label maps are for.
        sample: a DetDataSample or SegDataSample.
        meta: the data set's ``classes`` and, if it has one, ``palette``.
        score_thr: detections below this score are not drawn.
        truth: draw ``gt_...`` instead of ``pred_...``.

    Returns:
        (zoom * H, zoom * W, 3) BGR.
    """
    image, zoom = enlarged(image)
    classes = meta.get("classes") or ()
    kind = "gt" if truth else "pred"
    if f"{kind}_sem_seg" in sample:
        label_map = sample.get(f"{kind}_sem_seg").data.squeeze(0).cpu().numpy()
        label_map = label_map.repeat(zoom, 0).repeat(zoom, 1)
        return draw_segmentation(image, label_map, classes, meta.get("palette"))
    instances = sample.get(f"{kind}_instances")
    if instances is None:
        return image
    if "scores" in instances:
        instances = instances[instances.scores >= score_thr]
    instances = instances.cpu().numpy()
    boxes, masks = instances.bboxes, instances.get("masks")
    if hasattr(boxes, "tensor"):  # mmdet's ground truth has boxes and masks of its own classes
        boxes = boxes.tensor.numpy()
    if hasattr(masks, "to_ndarray"):
        masks = masks.to_ndarray()
    if masks is not None:
        masks = masks.repeat(zoom, 1).repeat(zoom, 2)
    scores = instances.get("scores")
    return draw_detections(image, zoom * boxes, instances.labels, scores, classes, masks)


def enlarged(image: Image) -> tuple[Image, int]:
    """An image enlarged so that labels can be read on it, and the factor; large ones stay."""
    zoom = max(1, _READABLE // max(image.shape[:2]))
    return np.asarray(
        cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
    ), zoom


@HOOKS.register_module(name=["DrawHook", "PaintHook"])  # the second is its former name
class DrawHook(Hook):
    """Draws predictions of a test, beside the ground truth if there is any.

    Each picture has its image's name and is in ``out_dir``, in the same folders as in the data set;
    detections below ``score_thr`` are not drawn.
    """

    priority = "LOW"

    def __init__(self, out_dir: str, score_thr: float = 0.3) -> None:
        self.out_dir = Path(out_dir)
        self.score_thr = score_thr

    def after_test_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Draws the images of a batch: ground truth on the left, prediction on the right."""
        meta = runner.test_dataloader.dataset.metainfo
        for sample in outputs or []:
            path = Path(sample.img_path)
            try:
                image = read_image(path)
            except UnreadableImageError as error:
                runner.logger.warning(f"no picture of {path}: {error}")
                continue
            picture = draw_sample(image, sample, meta, self.score_thr)
            if "gt_sem_seg" in sample or "bboxes" in sample.get("gt_instances", ()):
                truth = draw_sample(image, sample, meta, truth=True)
                picture = side_by_side({"ground truth": truth, "prediction": picture})
            place = place_of(path, runner.test_dataloader.dataset)
            write_image(self.out_dir / place.with_name(picture_name(path)), picture)


def place_of(image: Path, dataset: Any) -> Path:
    """The path of an image below the folder of the data set's images; its name if it is not there.

    In data sets of several parts, below the folder that has all parts.
    """
    folders = [
        os.path.abspath(folder)
        for part in [dataset, *(getattr(dataset, "datasets", None) or [])]
        for key, folder in (getattr(part, "data_prefix", None) or {}).items()
        if key in ("img", "img_path") and folder
    ]
    below = os.path.relpath(image, os.path.commonpath(folders)) if folders else ".."
    return Path(image.name) if below.startswith("..") else Path(below)


def picture_name(image: Path) -> str:
    """The name of an image's picture: its own, with a suffix for what cannot be written."""
    known = image.suffix.lower() in (".jpg", ".jpeg", ".png")
    return image.name if known else f"{image.name}.png"


def class_name(classes: Sequence[str], label: int) -> str:
    """The name of a class, or ``class N`` where the list is too short."""
    return classes[label] if label < len(classes) else f"class {label}"


def line_width(image: Image) -> int:
    """The width of lines, in pixels: a fixed fraction of the image."""
    return max(1, round(min(image.shape[:2]) / 350))


def class_colour(label: int, palette: Any = None) -> Colour:
    """The BGR colour of a class, the same in all pictures.

    It is that of an RGB palette; without one, hues are far apart, and every seven classes change
    in brightness.
    """
    if palette is not None and not isinstance(palette, str) and label < len(palette):
        red, green, blue = (int(v) for v in palette[label])
    else:
        value = (245, 190, 135)[label // 7 % 3]
        hsv = np.array([[[int(179 * (0.05 + label * _GOLDEN) % 179), 210, value]]], np.uint8)
        red, green, blue = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0].tolist()
    return blue, green, red


def side_by_side(panels: Mapping[str, Image]) -> Image:
    """Pictures of one height in a row, each below its title, with a line between them."""
    columns: list[Image] = []
    for title, panel in panels.items():
        (_, text_height), below, scale, stroke = _text_size(panel, title)
        strip = np.full((text_height + below + 8, panel.shape[1], 3), 255, np.uint8)
        cv2.putText(
            strip, title, (4, text_height + 4), _FONT, scale, (60, 50, 40), stroke, cv2.LINE_AA
        )
        column = np.vstack([strip, panel])
        if columns:
            column[:, : line_width(panel) + 1] = 255
        columns.append(column)
    return np.hstack(columns)


def _blend(pixels: Image, colour: Colour, opacity: float) -> Image:
    return np.asarray(pixels * (1.0 - opacity) + np.array(colour) * opacity, dtype=np.uint8)


def _blend_mask(canvas: Image, mask: NDArray, colour: Colour, thickness: int) -> None:
    canvas[mask] = _blend(canvas[mask], colour, 0.45)
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, outlines, -1, colour, thickness, cv2.LINE_AA)


def _largest_disc(region: NDArray) -> tuple[tuple[int, int], float]:
    """The centre and radius of the largest disc within a region."""
    framed = np.pad(region, 1).astype(np.uint8)  # the image border is a border of the region
    _, radius, _, (x, y) = cv2.minMaxLoc(cv2.distanceTransform(framed, cv2.DIST_L2, 3))
    return (x - 1, y - 1), radius


def _text_size(image: Image, text: str) -> tuple[tuple[int, int], int, float, int]:
    """Width and height of a text above its line and what is below that; font scale and stroke."""
    scale = float(np.clip(min(image.shape[:2]) / 1150, 0.35, 1.2))
    stroke = 1 if scale < 0.8 else 2
    (width, height), below = cv2.getTextSize(text, _FONT, scale, stroke)
    return (width, height), below, scale, stroke


class _Plates:
    """Writes names on coloured plates within a picture, none over another."""

    def __init__(self, canvas: Image) -> None:
        self._canvas = canvas
        self._taken: list[tuple[int, int, int, int]] = []

    def size(self, text: str) -> tuple[int, int]:
        """Width and height of the plate of a text."""
        (width, height), below, *_ = _text_size(self._canvas, text)
        return width + 4, height + below + 2

    def write(self, text: str, places: Iterable[tuple[int, int]], colour: Colour) -> None:
        """Writes it with its upper left corner at the first place that is free, if there is one."""
        width, height = self.size(text)
        for x, y in places:
            x = max(0, min(x, self._canvas.shape[1] - width))
            y = max(0, min(y, self._canvas.shape[0] - height))
            if not any(
                x < right and left < x + width and y < bottom and top < y + height
                for left, top, right, bottom in self._taken
            ):
                self._taken.append((x, y, x + width, y + height))
                self._draw(text, x, y, colour)
                return

    def _draw(self, text: str, x: int, y: int, colour: Colour) -> None:
        width, height = self.size(text)
        (_, text_height), _, scale, stroke = _text_size(self._canvas, text)
        cv2.rectangle(self._canvas, (x, y), (x + width, y + height), colour, cv2.FILLED)
        blue, green, red = colour
        is_bright = 0.114 * blue + 0.587 * green + 0.299 * red > 140
        ink = (0, 0, 0) if is_bright else (255, 255, 255)
        origin = (x + 2, y + text_height + 1)
        cv2.putText(self._canvas, text, origin, _FONT, scale, ink, stroke, cv2.LINE_AA)


def _around_box(corners: Sequence[int], width: int, height: int) -> Iterator[tuple[int, int]]:
    """Places for the plate of a box, the best first: above it, in its corners, below, its sides."""
    left, top, right, bottom = corners
    for x in (left, right - width):
        yield from ((x, top - height), (x, top))
    for x in (left, right - width):
        yield from ((x, bottom), (x, bottom - height))
    for y in range(top + height, bottom - height, height):
        yield from ((left, y), (right - width, y))
