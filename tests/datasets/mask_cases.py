"""Generated annotations as COCO files hold them: polygons of all kinds and run lengths."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

Rng = np.random.Generator


def polygon(rng: Rng, height: int, width: int) -> list[float]:
    """A polygon of 3 to 12 corners, perhaps thin, self-intersecting or partly outside the image."""
    corners = rng.integers(3, 13)
    center = rng.uniform(-0.1, 1.1, 2) * (width, height)
    radius = rng.uniform(0, rng.choice([0.02, 0.3, 1.0]), 2) * (width, height)
    angles = rng.uniform(0, 2 * np.pi, corners)
    if rng.random() < 0.8:  # otherwise its sides cross
        angles.sort()
    points = center + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    # As in COCO, two decimals; halves and fifths are on the grid that pycocotools rounds to.
    step = rng.choice([0.01, 0.1, 0.2, 0.5, 1.0])
    return (np.round(points / step) * step).ravel().tolist()


def blob(rng: Rng, height: int, width: int) -> NDArray[np.uint8]:
    """Random pixels in a random window: an F-ordered mask of many short runs."""
    mask = np.zeros((height, width), np.uint8, order="F")
    (y1, y2), (x1, x2) = (np.sort(rng.integers(0, side + 1, 2)) for side in (height, width))
    mask[y1:y2, x1:x2] = rng.random((y2 - y1, x2 - x1)) < rng.choice([0.1, 0.5, 0.95, 1.0])
    return mask


def annotation(rng: Rng, height: int, width: int) -> list[list[float]] | dict[str, Any]:
    """A segmentation: polygons, or run lengths, compressed or not."""
    kind = rng.choice(["polygons", "compressed", "uncompressed"], p=[0.6, 0.2, 0.2])
    if kind == "polygons":
        return [polygon(rng, height, width) for _ in range(rng.integers(1, 4))]
    mask = blob(rng, height, width)
    if kind == "compressed":
        rle = coco_mask.encode(mask)
        return {"size": rle["size"], "counts": rle["counts"].decode()}
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat, prepend=0))
    counts = np.diff(np.concatenate([[0], changes, [flat.size]]))
    return {"size": [height, width], "counts": counts.tolist()}


def instances(rng: Rng, count: int, height: int, width: int) -> list[dict[str, Any]]:
    """Annotations of an image as mmdet's data sets pass them on; every fourth is a crowd's."""
    found = []
    for i in range(count):
        (x1, x2), (y1, y2) = (np.sort(rng.uniform(0, side, 2)) for side in (width, height))
        found.append(
            {
                "bbox": [x1, y1, x2 + 2, y2 + 2],
                "bbox_label": int(rng.integers(4)),
                "ignore_flag": int(i % 4 == 3),
                "mask": annotation(rng, height, width),
            }
        )
    return found
