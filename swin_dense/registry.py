"""Child registries of scope ``swin_dense``.

OpenMMLab imports ``<scope>.registry`` when a config names a type as ``<scope>.Type``, so
``type='swin_dense.SwinTransformer'`` is found from any mmdet or mmseg config, also when
``swin_dense`` itself was not imported before.
"""

from importlib.util import find_spec

from mmengine.registry import DATASETS as _DATASETS
from mmengine.registry import HOOKS as _HOOKS
from mmengine.registry import METRICS as _METRICS
from mmengine.registry import MODELS as _MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as _CONSTRUCTORS
from mmengine.registry import OPTIM_WRAPPERS as _OPTIM_WRAPPERS
from mmengine.registry import TRANSFORMS as _TRANSFORMS
from mmengine.registry import VISBACKENDS as _VISBACKENDS
from mmengine.registry import Registry


def _with_mmdet(*modules: str) -> list[str]:
    """Modules that are made of mmdet's classes: a registry imports all of its locations."""
    return list(modules) if find_spec("mmdet") else []


MODELS = Registry(
    "model",
    parent=_MODELS,
    scope="swin_dense",
    locations=[
        "swin_dense.backbones",
        "swin_dense.models.necks",
        "swin_dense.models.heads",
        *_with_mmdet(
            "swin_dense.models.backbones",
            "swin_dense.models.roi_extractors",
            "swin_dense.models.detectors",
        ),
    ],
)
HOOKS = Registry(
    "hook",
    parent=_HOOKS,
    scope="swin_dense",
    locations=["swin_dense.engine", "swin_dense.reports"],
)
OPTIM_WRAPPERS = Registry(
    "optimizer wrapper",
    parent=_OPTIM_WRAPPERS,
    scope="swin_dense",
    locations=["swin_dense.engine.precision"],
)
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    "optimizer wrapper constructor",
    parent=_CONSTRUCTORS,
    scope="swin_dense",
    locations=["swin_dense.engine.layer_decay"],
)
DATASETS = Registry(
    "dataset", parent=_DATASETS, scope="swin_dense", locations=["swin_dense.datasets"]
)
METRICS = Registry(
    "metric", parent=_METRICS, scope="swin_dense", locations=["swin_dense.evaluation"]
)
VISBACKENDS = Registry(
    "vis_backend", parent=_VISBACKENDS, scope="swin_dense", locations=["swin_dense.engine.loggers"]
)
TRANSFORMS = Registry(
    "transform",
    parent=_TRANSFORMS,
    scope="swin_dense",
    locations=_with_mmdet("swin_dense.datasets.instaboost", "swin_dense.datasets.transforms"),
)
