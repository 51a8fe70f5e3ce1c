"""pycocotools reads annotation files as UTF-8, with or without a byte order mark.

JSON is UTF-8 on every system, and some editors begin it with that mark, which Python's json
refuses.
"""

import functools
from types import ModuleType

from swin_dense.compat.import_hooks import Execute, Hook


def _with_byte_order_mark(execute: Execute, module: ModuleType) -> None:
    execute(module)
    vars(module)["open"] = functools.partial(open, encoding="utf-8-sig")


HOOKS: dict[str, Hook] = {"pycocotools.coco": _with_byte_order_mark}
