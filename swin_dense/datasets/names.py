"""Names in messages."""

from collections.abc import Sequence
from typing import Any

RARE = 10  # objects of a class, or images with it: with fewer it is hardly learned


def shortened(names: Sequence[Any], limit: int = 5) -> str:
    """The first few, separated by commas."""
    return ", ".join(map(str, names[:limit])) + (", ..." if len(names) > limit else "")
