"""Hypothesis strategies: damaged bytes, and trees of data with values that do not belong there."""

import copy
import math
from typing import Any

from hypothesis import strategies as st

WHOLE_NUMBERS = (0, 1, -1, 7, 255, 2**31, 2**63, 2**64, -(2**63), 10**400)
NUMBERS = (*WHOLE_NUMBERS, 0.5, 1e9, 1e30, 1e308, -1e308, math.nan, math.inf, -math.inf)
TEXTS = ("", "x", "nan", "1e9", "\0", "ä\ud7ff", "a" * 5000, "../../../etc/passwd", "/dev/zero")
PLAIN = (None, True, False, *NUMBERS, *TEXTS, [], {}, [[]], [None], {"": 0}, [0] * 1000)
MOST_DEPTH = 12


def deep(levels: int) -> list:
    """A list in a list in a list ..."""
    found: list = []
    for _ in range(levels):
        found = [found]
    return found


@st.composite
def damaged(draw: Any, original: bytes) -> bytes:
    """Bytes with a few of them changed, cut off, repeated, or put in."""
    data = bytearray(original)
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["flip", "flip", "cut", "insert", "zero", "repeat", "number"]))
        start = draw(st.integers(0, max(len(data) - 1, 0)))
        length = draw(st.sampled_from([1, 2, 4, 16, 300]))
        if kind == "flip" and data:
            data[start] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del data[start:]
        elif kind == "insert":
            data[start:start] = draw(st.binary(min_size=1, max_size=length))
        elif kind == "zero":
            data[start : start + length] = bytes(length)
        elif kind == "repeat":
            data[start:start] = data[start : start + length]
        else:
            number = draw(st.sampled_from([0, 0x7F, 0xFF]))
            data[start : start + 4] = bytes([number]) * 4
    return bytes(data)


@st.composite
def changed(draw: Any, tree: Any, values: st.SearchStrategy) -> Any:
    """A copy of nested dicts and lists, in which one to three places are wrong."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        holder, key = draw(_places(tree))
        action = draw(
            st.sampled_from(["replace", "replace", "replace", "remove", "repeat", "rename"])
        )
        if holder is None:
            tree = copy.deepcopy(draw(values)) if action == "replace" else tree
        elif action == "replace":
            holder[key] = copy.deepcopy(draw(values))  # a later change is of the copy
        elif action == "remove":
            del holder[key]
        elif isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        else:
            name = draw(st.sampled_from(["", "x", f"{key}s", str(key).upper() or "y"]))
            holder[name] = holder[key] if action == "repeat" else holder.pop(key)
    return tree


@st.composite
def _places(draw: Any, tree: Any) -> tuple[Any, Any]:
    """A container within a tree, and the key of one of its entries; (None, None): all of it."""
    holder, key, node = None, None, tree
    for _ in range(MOST_DEPTH):
        if not isinstance(node, dict | list) or not node:
            break
        if holder is not None and draw(st.integers(0, 4)) == 0:
            break
        keys = list(node) if isinstance(node, dict) else range(len(node))
        holder, key = node, draw(st.sampled_from(keys))
        node = holder[key]
    return holder, key
