"""Whether the segmentation of a COCO annotation can be drawn, told without drawing it.

pycocotools crashes on some that cannot, and mmdet trains on others as if they were crowds.
"""

from typing import Any, NamedTuple

from swin_dense.datasets.run_lengths import run_lengths

NONE = "have a box but no segmentation"
_NO_SHAPE = "have a segmentation that is neither a list of polygons nor a run-length encoding"
_NO_POLYGON = "have no polygon of three points or more"
_NO_NUMBERS = "have a polygon with coordinates that are not finite numbers"
_FAR_AWAY = "have a polygon far outside the image"
_BAD_RLE = "have a broken run-length encoding"
_OTHER_SIZE = "have a run-length encoding of another size than their image"
_FAR = 10  # sides of the image; objects cut out of larger images may reach outside
_HUGE = 1e300
_LEAST = 6  # numbers of a polygon of three points


class Polygons(NamedTuple):
    """Polygons that can be drawn if their coordinates, ``low`` to ``high``, are near the image.

    ``has_fragments`` tells that some have fewer than three points, or half a point.
    """

    low: float
    high: float
    has_fragments: bool


class Runs(NamedTuple):
    """A run-length encoding of an image of that size in pixels."""

    height: int
    width: int


Segmentation = Polygons | Runs | str
"""What is known of a segmentation; text is why it cannot be drawn, after "annotations that"."""


def describe(segmentation: Any) -> Segmentation:
    """Check what an annotation file has as a segmentation."""
    if segmentation is None or segmentation == [] or segmentation == {}:
        return NONE
    if isinstance(segmentation, dict):
        return _describe_runs(segmentation)
    if not isinstance(segmentation, list) or not all(isinstance(p, list) for p in segmentation):
        return _NO_SHAPE
    drawn = whole_polygons(segmentation)
    if not drawn:
        return _NO_POLYGON
    try:
        total = sum(map(sum, drawn))
        low, high = min(map(min, drawn)), max(map(max, drawn))
    except (TypeError, OverflowError):
        return _NO_NUMBERS
    if not -_HUGE < total < _HUGE:  # nan and infinity make the total so
        return _NO_NUMBERS
    return Polygons(low, high, len(drawn) < len(segmentation))


def whole_polygons(polygons: list[list]) -> list[list]:
    """Those of at least three points, as mmdet chooses them."""
    return [polygon for polygon in polygons if len(polygon) >= _LEAST and len(polygon) % 2 == 0]


def problem(found: Segmentation, width: float, height: float) -> str | None:
    """Why a segmentation cannot be drawn in an image of that size in pixels; None if it can."""
    if isinstance(found, Polygons):
        reach = _FAR * max(width, height)
        return None if found.low >= -reach and found.high <= reach else _FAR_AWAY
    if isinstance(found, Runs):
        return None if found == (height, width) else _OTHER_SIZE
    return found


def _describe_runs(rle: dict) -> Segmentation:
    size, counts = rle.get("size"), rle.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not all(_is_side(side) for side in size):
        return _BAD_RLE
    height, width = size
    if isinstance(counts, list):
        whole = all(isinstance(n, int) and n >= 0 for n in counts) and sum(counts) == height * width
    elif isinstance(counts, str):
        lengths = run_lengths(counts)
        whole = lengths is not None and not (lengths < 0).any() and lengths.sum() == height * width
    else:
        whole = False
    return Runs(height, width) if whole else _BAD_RLE


def _is_side(value: Any) -> bool:
    return isinstance(value, int) and 0 < value < 2**31
