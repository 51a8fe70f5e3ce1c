"""A generated data set for detection, instance and semantic segmentation: shapes on noise.

A detector and a segmentor can be trained on it from scratch in minutes, without a download:
circles, squares, triangles and stars of any colour and size, tilted, partly occluded by each other,
on textured backgrounds. :func:`write_shapes` writes it in the formats of COCO and ADE20K::

    DIR/train2017/*.jpg  val2017/*.jpg                       the images, for both tasks
        annotations/instances_{train,val}2017.json           COCO: boxes and masks (RLE)
        annotations/{training,validation}/*.png              semantic label maps, ADE20K's folders
        shapes.json                                          the arguments, written last

Label maps contain 0 for background and the COCO category id (1, 2, ...) for shapes. Background is a
class here, while 0 in ADE20K means unlabelled and is ignored (``reduce_zero_label=True``).
"""

import json
import tempfile
from collections.abc import Callable
from colorsys import hsv_to_rgb
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from swin_dense.errors import UserError

CLASSES = ("circle", "square", "triangle", "star")

MANIFEST = "shapes.json"
# Names of the two splits: ours, COCO's, ADE20K's.
_SPLITS = (("train", "train2017", "training"), ("val", "val2017", "validation"))

_MIN_VISIBLE = 0.7  # of a shape's area, so that it stays recognisable
_MIN_CONTRAST = 110.0  # Euclidean distance in RGB between a shape and its background
_TILT = np.pi / 9  # maximum; training on shapes at any angle takes several times as long
_PLACEMENT_TRIES = 60

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]
Window = tuple[slice, slice]


@dataclass(frozen=True)
class ShapesSpec:
    """Number of training and validation images, side in pixels, seed.

    Image ``i`` of a split depends on ``size``, ``seed`` and ``i`` only, so a larger data set starts
    with the images of a smaller one.
    """

    train: int = 1200
    val: int = 100
    size: int = 96
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.train, self.val) < 1 or self.size < 32 or self.seed < 0:
            raise UserError(
                "shapes need --train >= 1, --val >= 1, --size >= 32 and --seed >= 0, got "
                f"--train {self.train} --val {self.val} --size {self.size} --seed {self.seed}"
            )


@dataclass(frozen=True)
class Scene:
    """One image with its instances, in drawing order (later ones occlude earlier ones).

    Attributes:
        image: (S, S, 3) uint8, RGB.
        labels: category of each instance, an index into :data:`CLASSES`.
        masks: (S, S) bool each, the visible pixels; they do not overlap.
    """

    image: Image
    labels: list[int]
    masks: list[Mask]

    def semantic(self) -> Image:
        """Label map (S, S) uint8: 0 for background, ``label + 1`` where a shape is visible."""
        label_map = np.zeros(self.image.shape[:2], np.uint8)
        for label, mask in zip(self.labels, self.masks, strict=True):
            label_map[mask] = label + 1
        return label_map


def draw_scene(rng: np.random.Generator, size: int) -> Scene:
    """Draw 2 to 4 shapes on a textured background of ``size`` x ``size`` pixels."""
    canvas = _background(rng, size)
    labels: list[int] = []
    masks: list[Mask] = []
    full_areas: list[int] = []
    wanted = int(rng.integers(2, 5))
    for _ in range(_PLACEMENT_TRIES):
        if len(masks) == wanted:
            break
        label = int(rng.integers(len(CLASSES)))
        window, distance = _random_shape(rng, CLASSES[label], size)
        drawn = np.zeros((size, size), bool)
        drawn[window] = distance < 0
        visible = [mask & ~drawn for mask in masks]
        areas = zip(visible, full_areas, strict=True)
        if any(mask.sum() < _MIN_VISIBLE * full_area for mask, full_area in areas):
            continue
        _draw_shape(rng, canvas[window], distance)
        masks = [*visible, drawn]
        labels.append(label)
        full_areas.append(int(drawn.sum()))
    noise = rng.standard_normal(canvas.shape, np.float32)
    canvas += rng.uniform(2, 8) * noise
    return Scene(np.clip(canvas.round(), 0, 255).astype(np.uint8), labels, masks)


def _background(rng: np.random.Generator, size: int) -> Floats:
    """Grey clouds and stripes of a random direction and period, (S, S, 3)."""
    cells = int(rng.integers(2, 9))
    grey = rng.uniform(40, 180) + rng.uniform(-30, 30, (cells, cells, 1))
    clouds = grey + rng.uniform(-15, 15, 3) + rng.uniform(-8, 8, (cells, cells, 3))
    canvas = cv2.resize(clouds, (size, size), interpolation=cv2.INTER_CUBIC)
    angle, period = rng.uniform(0, np.pi), rng.uniform(4, 24)
    rows, cols = np.ogrid[:size, :size]
    phase = (rows * np.sin(angle) + cols * np.cos(angle)) * (2 * np.pi / period)
    stripes = rng.uniform(0, 15) * np.sin(phase)
    return np.clip(canvas + stripes[..., None], 0, 255)


def _random_shape(rng: np.random.Generator, name: str, size: int) -> tuple[Window, Floats]:
    """A shape inside the image: its window and the signed distances (h, w) there."""
    radius = rng.uniform(0.15, 0.28) * size
    x, y = rng.uniform(radius, size - radius, 2)
    # One pixel of margin, for the soft edge.
    left, top = max(int(x - radius) - 1, 0), max(int(y - radius) - 1, 0)
    right, bottom = int(x + radius) + 2, int(y + radius) + 2
    window = (slice(top, min(bottom, size)), slice(left, min(right, size)))
    rows, cols = (axis + 0.5 for axis in np.ogrid[window])
    if name == "circle":
        return window, np.sqrt((cols - x) ** 2 + (rows - y) ** 2) - 0.9 * radius
    # Upright: one corner of a triangle and of a star on top, a square's sides level.
    radii = {"square": [1.0] * 4, "triangle": [1.0] * 3, "star": [1.0, 0.42] * 5}[name]
    step = 2 * np.pi / len(radii)
    first = -np.pi / 2 + (step / 2 if name == "square" else 0) + rng.uniform(-_TILT, _TILT)
    angles = first + np.arange(len(radii)) * step
    reach = radius * np.array(radii)
    corners = np.stack([x + reach * np.cos(angles), y + reach * np.sin(angles)], axis=1)
    return window, polygon_distance(corners, rows, cols)


def polygon_distance(corners: Floats, rows: Floats, cols: Floats) -> Floats:
    """Signed distance of points to a polygon, negative inside.

    Args:
        corners: (K, 2) of (x, y), in order around the polygon.
        rows: (h, 1), the points' y.
        cols: (1, w), the points' x.

    Returns:
        (h, w): the distance to the nearest edge; a point is inside if a ray from it to the
        right crosses an odd number of edges.
    """
    shape = np.broadcast_shapes(rows.shape, cols.shape)
    nearest = np.full(shape, np.inf)
    inside = np.zeros(shape, bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        dx, dy = x1 - x0, y1 - y0
        to_x, to_y = cols - x0, rows - y0
        along = np.clip((to_x * dx + to_y * dy) / (dx * dx + dy * dy), 0, 1)
        nearest = np.minimum(nearest, (to_x - along * dx) ** 2 + (to_y - along * dy) ** 2)
        if dy:
            inside ^= ((rows < y0) != (rows < y1)) & (to_x < to_y * (dx / dy))
    return np.where(inside, -1, 1) * np.sqrt(nearest)


def _draw_shape(rng: np.random.Generator, canvas: Floats, distance: Floats) -> None:
    """Draw a shape on its window (h, w, 3) in place: contrasting, shaded, with a soft edge."""
    under = canvas[distance < 0].mean(axis=0)
    colour = _vivid(rng)
    while np.linalg.norm(colour - under) < _MIN_CONTRAST:
        colour = _vivid(rng)
    height, width = distance.shape
    rows, cols = np.ogrid[-0.5 : 0.5 : height * 1j, -0.5 : 0.5 : width * 1j]
    slope = rng.uniform(-25, 25, 2)
    shaded = colour + (rows * slope[0] + cols * slope[1])[..., None]
    cover = np.clip(0.5 - distance, 0, 1)[..., None]
    canvas += cover * (shaded - canvas)


def _vivid(rng: np.random.Generator) -> Floats:
    """A random colour (3,) of high saturation."""
    return np.array(hsv_to_rgb(*rng.uniform((0, 0.65, 160), (1, 1, 255))))


def write_shapes(
    root: Path, spec: ShapesSpec, on_image: Callable[[], object] = lambda: None
) -> bool:
    """Write the data set to ``root``, unless it is there already.

    It is written beside ``root`` and moved there when complete, so an interruption never leaves
    half a data set.

    Args:
        root: folder to create; it may exist if it is empty.
        spec: what to generate.
        on_image: called after every image, for a progress bar.

    Returns:
        Whether anything was written; False if ``root`` already contains this data set.

    Raises:
        UserError: ``root`` contains something else, or cannot be written.
    """
    root = Path(root).absolute()
    try:
        if _exists(root, spec):
            return False
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{root.name}.", dir=root.parent) as beside:
            complete = Path(beside) / "shapes"
            for index in range(len(_SPLITS)):
                _write_split(complete, spec, index, on_image)
            (complete / MANIFEST).write_text(_manifest(spec))
            complete.replace(root)
    except OSError as error:
        raise UserError(
            f"cannot write the shapes data set to {root}: {error.strerror or error}: "
            "name a writable folder on a disk with free space"
        ) from error
    return True


def _manifest(spec: ShapesSpec) -> str:
    # Raise `version` whenever the same spec gives other images, so that old ones are noticed.
    return json.dumps({"generator": "swin_dense shapes", "version": 1, **asdict(spec)}) + "\n"


def _exists(root: Path, spec: ShapesSpec) -> bool:
    """Whether ``root`` contains this data set. Raises UserError if it contains anything else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    manifest = root / MANIFEST
    found = manifest.read_text() if manifest.is_file() else None
    if found == _manifest(spec):
        return True
    if not root.is_dir():
        raise UserError(f"{root} is a file: name a folder that does not exist yet")
    if found is None:
        raise UserError(f"{root} is not empty and contains no shapes data set: name another folder")
    raise UserError(
        f"{root} contains another shapes data set ({found.strip()}): delete it, or name another "
        "folder"
    )


def _write_split(
    root: Path, spec: ShapesSpec, split_index: int, on_image: Callable[[], object]
) -> None:
    split, coco_folder, ade_folder = _SPLITS[split_index]
    image_dir, label_dir = root / coco_folder, root / "annotations" / ade_folder
    image_dir.mkdir(parents=True)
    label_dir.mkdir(parents=True)
    images: list[dict] = []
    annotations: list[dict] = []
    for index in range(getattr(spec, split)):
        scene = draw_scene(np.random.default_rng([spec.seed, split_index, index]), spec.size)
        stem = f"{index + 1:012d}"
        _write_image(image_dir / f"{stem}.jpg", scene.image[..., ::-1])
        _write_image(label_dir / f"{stem}.png", scene.semantic())
        sides = dict.fromkeys(("width", "height"), spec.size)
        images.append({"id": index + 1, "file_name": f"{stem}.jpg", **sides})
        for label, mask in zip(scene.labels, scene.masks, strict=True):
            annotations.append(_annotation(len(annotations) + 1, index + 1, label, mask))
        on_image()
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
    coco = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / f"instances_{coco_folder}.json").write_text(json.dumps(coco))


def _annotation(annotation_id: int, image_id: int, label: int, mask: Mask) -> dict:
    """COCO annotation of the visible pixels: tight box (x, y, width, height), area, RLE."""
    rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": label + 1,
        "bbox": coco_mask.toBbox(rle).tolist(),
        "area": int(coco_mask.area(rle)),
        "iscrowd": 0,
        "segmentation": {"size": list(mask.shape), "counts": rle["counts"].decode("ascii")},
    }


def _write_image(path: Path, pixels: NDArray) -> None:
    quality = [cv2.IMWRITE_JPEG_QUALITY, 92] if path.suffix == ".jpg" else []
    ok, data = cv2.imencode(path.suffix, pixels, quality)
    if not ok:  # not a user's mistake, so not a UserError
        raise RuntimeError(f"OpenCV cannot encode {path.suffix} images")
    path.write_bytes(data.tobytes())
