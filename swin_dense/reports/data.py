"""A page about a data set: what is in it, what it looks like, and what looks like a mistake."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

import cv2
import numpy as np
from mmengine.config import Config
from numpy.typing import NDArray

from swin_dense import config_tree
from swin_dense.datasets.inspection import HUGE, SAME, TINY, Item, Suspicion
from swin_dense.datasets.names import RARE
from swin_dense.engine.images import UnreadableImageError, read_image
from swin_dense.reports.page import Link, Page, Picture, Section, new_figure
from swin_dense.reports.samples import augmented_samples, loaded_samples

KINDS = {
    "leak": "Images of training that are in another part: its scores would be too high.",
    "duplicate": "Images that are in one part more than once.",
    "outside": "Boxes that reach more than a pixel beyond their image.",
    "tiny": f"Boxes with a side of less than {TINY} pixels.",
    "huge": f"Boxes of more than {HUGE:.0%} of their image.",
    "unlabelled": "Images without labels: the background alone, or forgotten.",
    "labelled twice": f"Boxes of one class that cover each other by more than {SAME:.0%} (IoU).",
}
_LISTED = 100  # rows of a table of suspicious things
_SHOWN = 8  # pictures of each kind of them
_BARS = 40  # classes in a chart
_THUMB = 320  # pixels of a side of a small picture


@dataclass
class Inspection:
    """All that is known of a data set.

    Attributes:
        cfg: the config, ``own_data`` applied.
        name: of the config or folder.
        samples: number of pictures of each kind.
        notes: what ``own_data`` recognised, converted and put right, a line each.
        parts: images with labels, by part.
        problems: a line for each part that would not train.
        warnings: a line each.
        broken: parts that would not train.
        suspicions: what looks like a mistake.
    """

    cfg: Config
    name: str
    samples: int
    notes: list[str] = field(default_factory=list)
    parts: dict[str, list[Item]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    suspicions: list[Suspicion] = field(default_factory=list)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return config_tree.class_names(
            self.cfg, next(config_tree.split_datasets(self.cfg, "train"))
        )

    @property
    def has_boxes(self) -> bool:
        """Whether it is for a detector; else it has label maps."""
        return not config_tree.is_segmentation(self.cfg)

    @property
    def kinds(self) -> list[str]:
        """The kinds of suspicious things that there are, the worst first."""
        present = {one.kind for one in self.suspicions}
        return [kind for kind in KINDS if kind in present]


def data_page(found: Inspection) -> Page:
    """The page."""
    images = sum(map(len, found.parts.values()))
    page = Page(f"Data of {found.name}", f"{images:,} images, {len(found.classes)} classes")
    _add_checks(page, found)
    _add_overview(page, found)
    _add_classes(page.section("Classes"), found)
    if any(item.boxes for items in found.parts.values() for item in items):
        _add_sizes(page.section("Sizes"), found)
    _add_suspicions(page.section("Suspicious"), found)
    if found.samples and "train" not in found.broken:
        _add_samples(page.section("As loaded"), loaded_samples(found.cfg, found.samples))
        section = page.section("As augmented", "What the model sees in a training step.")
        _add_samples(section, augmented_samples(found.cfg, found.samples))
        pipeline = next(iter(config_tree.split_datasets(found.cfg, "train")))["pipeline"]
        section.code("\n".join(map(str, pipeline)), "the training pipeline")
    return page


def _add_checks(page: Page, found: Inspection) -> None:
    section = page.section("Checks")
    for problem in found.problems:
        section.warning(problem)
    if not found.problems:
        section.text("Every check that is made before a training passes.")
    for warning in found.warnings:
        section.text(f"Warning: {warning}")
    for note in found.notes:
        section.text(f"own_data: {note}")


def _add_overview(page: Page, found: Inspection) -> None:
    rows = []
    for split, items in found.parts.items():
        sizes = [item.size for item in items if item.size]
        counts = [len(item.boxes) for item in items]
        without = sum(not item.boxes and not item.pixels for item in items)
        extent = [f"{min(s)} to {max(s)}" if s else None for s in zip(*sizes, strict=True)]
        objects = (
            [sum(counts), f"{fmean(counts):.1f}" if counts else None] if found.has_boxes else []
        )
        rows.append([split, len(items), without, *objects, *(extent or [None, None])])
    objects_heads = ["objects:", "per image:"] if found.has_boxes else []
    heads = ["part", "images:", "without labels:", *objects_heads, "width:", "height:"]
    page.section("What there is").table(heads, rows, "Widths and heights are in pixels.")


def _add_classes(section: Section, found: Inspection) -> None:
    counts = {split: _class_counts(items) for split, items in found.parts.items()}
    images = {split: _class_images(items) for split, items in found.parts.items()}
    what = "objects" if found.has_boxes else "pixels"
    training = counts.get("train", Counter())
    order = sorted(range(len(found.classes)), key=lambda i: -training[i])
    shown = order[:_BARS]
    if shown and any(counts.values()):
        figure, axes = new_figure(size=(9.6, max(1.6, 0.6 + 0.22 * len(shown))))
        step = 0.8 / len(counts)
        for index, (split, by_class) in enumerate(counts.items()):
            places = [row + index * step for row in range(len(shown))]
            axes.barh(places, [by_class[i] for i in shown], height=step, label=split)
        middle = [row + step * (len(counts) - 1) / 2 for row in range(len(shown))]
        axes.set_yticks(middle, [found.classes[i] for i in shown])
        axes.margins(y=0.01)
        axes.invert_yaxis()
        most = max(max(c.values(), default=0) for c in counts.values())
        least = min((n for c in counts.values() for n in c.values() if n), default=1)
        axes.set_xscale("log" if most > 50 * least else "linear")
        axes.set_xlabel(what)
        axes.legend()
        more = f", the {_BARS} most frequent ones" if len(order) > _BARS else ""
        section.figure(figure, f"{what.capitalize()} of each class{more}.")
    heads, rows = ["class"], []
    for split in counts:
        heads += [f"{split} {what}:", f"{split} images:"]
    for i in order:
        rows.append([found.classes[i], *(n[i] for s in counts for n in (counts[s], images[s]))])
    section.table(heads, rows)
    unit = "objects" if found.has_boxes else "images"
    examples = training if found.has_boxes else images.get("train", Counter())
    # Of few label maps, a class that is in most of them is not rare.
    most = RARE if found.has_boxes else min(RARE, (len(found.parts.get("train", ())) + 1) // 2)
    for text, names in (
        ("Classes without labels in training", [i for i in order if not examples[i]]),
        (
            f"Rare classes, with fewer than {most} {unit} in training",
            [i for i in order if 0 < examples[i] < most],
        ),
    ):
        if names:
            section.text(f"{text}: {', '.join(found.classes[i] for i in names)}.")


def _class_counts(items: Sequence[Item]) -> Counter[int]:
    counts = Counter(box.label for item in items for box in item.boxes)
    for item in items:
        counts.update(item.pixels)
    return counts


def _class_images(items: Sequence[Item]) -> Counter[int]:
    return Counter(i for item in items for i in {*item.pixels, *(b.label for b in item.boxes)})


def _add_sizes(section: Section, found: Inspection) -> None:
    figure, (sides, shares, numbers, pictures) = new_figure(2, 2, size=(5.4, 2.7))
    for split, items in found.parts.items():
        boxes = [(box, item.size) for item in items for box in item.boxes if item.size]
        side = [max(box.width * box.height, 1) ** 0.5 for box, _ in boxes]
        share = [
            max(box.width * box.height, 1) ** 0.5 / (size[0] * size[1]) ** 0.5
            for box, size in boxes
        ]
        sizes = np.array([item.size for item in items if item.size]).reshape(-1, 2)
        style = {"alpha": 0.55, "label": split}
        if boxes:
            sides.hist(side, bins=np.geomspace(1, max(2, *side), 40), **style)
            shares.hist(share, bins=np.linspace(0, max(1, *share), 40), **style)
        if items:
            most = max(len(item.boxes) for item in items)
            numbers.hist([len(i.boxes) for i in items], bins=np.arange(most + 2) - 0.5, **style)
            pictures.scatter(sizes[:, 0], sizes[:, 1], s=9, **style)
    sides.set_xscale("log")
    for axes, title, x in (
        (sides, "Objects", "square root of the box's area, pixels"),
        (shares, "Objects in their images", "the same, as a fraction of the image's"),
        (numbers, "Images", "objects in an image"),
        (pictures, "Sizes of images", "width, pixels"),
    ):
        axes.set_title(title)
        axes.set_xlabel(x)
        axes.legend()
    pictures.set_ylabel("height, pixels")
    section.figure(figure, "Sizes of objects before images are resized.")


def _add_suspicions(section: Section, found: Inspection) -> None:
    if not found.suspicions:
        looked = list(KINDS) if found.has_boxes else ["leak", "duplicate", "unlabelled"]
        section.text(f"Nothing that is {', '.join(looked)}.")
    for kind in found.kinds:
        items = [one for one in found.suspicions if one.kind == kind]
        section.text(f"{len(items)} {kind}. {KINDS[kind]}")
        section.pictures(_thumbnails(items))
        rows = [[one.split, one.what, *(Link(p.name, _uri(p)) for p in one.paths)] for one in items]
        heads = ["part", "what", "image", "and"][: 2 + len(items[0].paths)]
        rest = f"The first {_LISTED}; suspicious.json has all." if len(rows) > _LISTED else ""
        section.table(heads, rows[:_LISTED], rest)


def _thumbnails(items: Sequence[Suspicion]) -> Iterator[Picture]:
    for one in items[:_SHOWN]:
        try:
            pictures = [read_image(path) for path in one.paths]
        except UnreadableImageError:
            continue
        if one.box is not None:
            shown = _crop(pictures[0], one)
        else:
            shown = np.hstack([_fitted(picture) for picture in pictures])
        yield Picture(shown, Link(one.what, _uri(one.paths[0])), _uri(one.paths[0]))


def _crop(image: NDArray[np.uint8], one: Suspicion) -> NDArray[np.uint8]:
    """A box with what is around it."""
    assert one.box is not None
    height, width = image.shape[:2]
    side = max(3 * one.box.width, 3 * one.box.height, 48)
    centre = (one.box.x + one.box.width / 2, one.box.y + one.box.height / 2)
    left = int(np.clip(centre[0] - side / 2, 0, max(0, width - side)))
    top = int(np.clip(centre[1] - side / 2, 0, max(0, height - side)))
    part = image[top : top + int(side), left : left + int(side)]
    scale = _THUMB / max(part.shape[:2])
    part = cv2.resize(part, None, fx=scale, fy=scale)  # type: ignore[assignment]
    corners = np.array([one.box.x - left, one.box.y - top]) * scale
    ends = corners + np.array([one.box.width, one.box.height]) * scale
    first, last = (tuple(np.rint(point).astype(int).tolist()) for point in (corners, ends))
    cv2.rectangle(part, first, last, (0, 94, 213), 2)
    return part


def _fitted(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image in the middle of a white square."""
    scale = _THUMB / max(image.shape[:2])
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    square = np.full((_THUMB + 8, _THUMB + 8, 3), 255, np.uint8)
    top, left = ((_THUMB + 8 - side) // 2 for side in small.shape[:2])
    square[top : top + small.shape[0], left : left + small.shape[1]] = small
    return square


def _add_samples(
    section: Section, samples: Iterator[tuple[NDArray[np.uint8], Path | None]]
) -> None:
    pictures = []
    try:
        for picture, path in samples:
            link = Link(path.name, _uri(path)) if path else ""
            pictures.append(Picture(picture, link, _uri(path) if path else None))
    except Exception as error:  # a pipeline of a config may raise anything
        section.warning(f"The pipeline fails: {type(error).__name__}: {error}")
    section.pictures(pictures, per_row=3)


def _uri(path: Path) -> str:
    return path.absolute().as_uri()
