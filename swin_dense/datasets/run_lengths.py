"""COCO's compressed run lengths; apart from the masks, as what checks them does without mmdet."""

import numpy as np
from numpy.typing import NDArray

_LONGEST_NUMBER = 6  # characters of a run length that pycocotools reads without overflow


def run_lengths(text: str | bytes) -> NDArray[np.int64] | None:
    """Run lengths of a compressed encoding (pycocotools' ``rleFrString``); None if it is broken.

    A number has five bits in each character, the lowest first, a bit that tells whether another
    character follows, and a sign. From the fourth on, numbers are differences to the last but one.
    """
    characters = np.frombuffer(text.encode() if isinstance(text, str) else text, np.uint8)
    codes = characters.astype(np.int64) - ord("0")
    if not len(codes):
        return codes
    if codes.min() < 0 or codes.max() >= 64 or codes[-1] >= 32:
        return None
    last = np.flatnonzero(codes < 32)
    first = np.concatenate([[0], last[:-1] + 1])
    lengths = last - first + 1
    if lengths.max() > _LONGEST_NUMBER:
        return None
    digit = np.arange(len(codes)) - first.repeat(lengths)
    runs = np.add.reduceat((codes & 31) << 5 * digit, first)
    runs -= np.where(codes[last] & 16, 1 << 5 * lengths, 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs
