"""Libraries that OpenMMLab imports at start and few models need: imported when they are used.

transformers and matplotlib take seconds to import. OpenMMLab uses the first in Adafactor, GLIP and
Grounding DINO, the second in drawing. While the modules listed here are executed, what they take
from these libraries is a :class:`Deferred`. Where the library is not installed, or is imported
already, nothing is changed.
"""

import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from swin_dense.compat.import_hooks import Execute, Hook

_FUSION = "mmdet.models.utils.vlfuse_helper"


class Deferred:
    """Stands in for an object until it is called or one of its attributes is read."""

    def __init__(self, load: Callable[[], Any]) -> None:
        self._load = load

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # probes of copy and inspect
            raise AttributeError(name)
        return getattr(self._load(), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: D102
        return self._load()(*args, **kwargs)


def _load_from(module: str, name: str) -> Any:
    """``from module import name``, where the name may be a module."""
    content = importlib.import_module(module)
    if not hasattr(content, name):
        return importlib.import_module(f"{module}.{name}")
    return getattr(content, name)


@contextmanager
def _deferring(*names: str) -> Iterator[bool]:
    """Within, the modules of these names, the first a package, give a Deferred for any name.

    Yields:
        Whether that is so: False where the package is not installed or is imported already.
    """
    spec = None if names[0] in sys.modules else importlib.util.find_spec(names[0])
    if spec is None:
        yield False
        return
    for name in names:
        module = ModuleType(name)
        module.__spec__ = spec  # for whoever asks whether the package is installed
        vars(module)["__getattr__"] = lambda attribute, name=name: _attribute(name, attribute)
        sys.modules[name] = module
    try:
        yield True
    finally:
        for name in names:
            del sys.modules[name]


def _attribute(module: str, name: str) -> Deferred:
    if name.startswith("__"):  # probes of the import system, such as __path__
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    return Deferred(functools.partial(_load_from, module, name))


def _without_transformers(execute: Execute, module: ModuleType) -> None:
    with _deferring("transformers"):
        execute(module)


def _without_pyplot(execute: Execute, module: ModuleType) -> None:
    if importlib.util.find_spec("seaborn") is not None:  # it imports matplotlib, in earnest
        execute(module)
        return
    parts = ("pyplot", "patches", "colors")  # the last one in onedl-mmdetection
    with _deferring("matplotlib", *(f"matplotlib.{part}" for part in parts)):
        execute(module)


def _without_bert_layers(execute: Execute, module: ModuleType) -> None:
    """GLIP's layer derives from transformers' classes: the module is executed again for it.

    The first execution is the one for those who have no transformers.
    """
    with _deferring("transformers") as deferred:
        execute(module)
    if deferred:
        vars(module)["BertEncoderLayer"] = Deferred(functools.partial(_bert_encoder_layer, module))


def _bert_encoder_layer(module: ModuleType) -> Any:
    if isinstance(vars(module)["BertEncoderLayer"], Deferred):
        importlib.import_module("transformers")
        spec = importlib.util.find_spec(module.__name__)
        assert spec is not None
        assert spec.loader is not None
        again = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(again)
        # pickle finds classes by the name of their module.
        vars(module).update({k: v for k, v in vars(again).items() if k.startswith("Bert")})
    return vars(module)["BertEncoderLayer"]


class _Figure(Deferred):
    """A figure, of which mmengine's visualizer wants one thing before it draws."""

    def get_dpi(self) -> None:
        """Not known yet: the visualizer gets it together with the figure."""


def _with_figure_when_drawn(execute: Execute, module: ModuleType) -> None:
    """Lets a visualizer make its figure when it first draws; most of them only write numbers."""
    execute(module)
    make = getattr(module.Visualizer, "_initialize_fig", None)
    if make is None:
        return

    @functools.wraps(make)
    def initialize(self: Any, settings: dict[str, Any]) -> tuple[Deferred, Deferred, Deferred]:
        @functools.cache
        def parts() -> tuple[Any, Any, Any]:
            made = make(self, settings)
            self.fig_save_canvas, self.fig_save, self.ax_save = made
            self.dpi = self.fig_save.get_dpi()
            return made

        canvas, axes = Deferred(lambda: parts()[0]), Deferred(lambda: parts()[2])
        return canvas, _Figure(lambda: parts()[1]), axes

    module.Visualizer._initialize_fig = initialize


HOOKS: dict[str, Hook] = {
    "mmdet.datasets.transforms.text_transformers": _without_transformers,
    "mmdet.models.dense_heads.atss_vlfusion_head": _without_transformers,
    "mmdet.models.dense_heads.clr_head.clr_head": _without_pyplot,  # of onedl-mmdetection
    "mmdet.models.language_models.bert": _without_transformers,
    _FUSION: _without_bert_layers,
    "mmdet.utils.mot_error_visualize": _without_pyplot,
    "mmdet.visualization.local_visualizer": _without_pyplot,  # of onedl-mmdetection
    "mmengine.optim.optimizer.builder": _without_transformers,
    "mmengine.visualization.visualizer": _with_figure_when_drawn,
}
