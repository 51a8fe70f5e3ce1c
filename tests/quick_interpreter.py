"""A plugin of pytest: Triton's interpreter adapts ``triton.language`` once for each kernel.

By itself it does so again at every call of a function in a kernel, a quarter of its time.
"""

from types import SimpleNamespace

import triton.language as tl
from triton.runtime import interpreter

_EVERYTHING = SimpleNamespace(__globals__={"tl": tl, "core": tl.core})


class _Adapted:
    """What the interpreter puts back at the end of a kernel."""

    now: "_Adapted | None" = None

    def __init__(self, scope) -> None:
        self.scope = scope

    def restore(self) -> None:
        _Adapted.now = None
        self.scope.restore()


def _adapt(_, adapt=interpreter._patch_lang) -> _Adapted:
    _Adapted.now = _Adapted.now or _Adapted(adapt(_EVERYTHING))
    return _Adapted.now


if hasattr(interpreter, "_LangPatchScope"):  # earlier versions put nothing back
    interpreter._patch_lang = _adapt
