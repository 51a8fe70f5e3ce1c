"""Loading a checkpoint into a whole model, with a report on the terminal."""

from collections.abc import Mapping
from typing import Any, cast

from mmengine.config import Config
from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import nn

from swin_dense.checkpoints import convert_checkpoint, dataset_meta, load_converted
from swin_dense.config_tree import class_names, split_datasets
from swin_dense.engine.config.fit import tested_scale
from swin_dense.engine.terminal.console import notify_user
from swin_dense.errors import UserError


def load_weights(
    model: nn.Module, checkpoint: Mapping[str, Any], source: str, exact: bool = True
) -> None:
    """Load a checkpoint of any wrapping and backbone layout, and print a report.

    The arguments and errors are those of :func:`swin_dense.checkpoints.convert_checkpoint` and
    :func:`swin_dense.checkpoints.load_converted`; the model may have mmengine's wrappers.
    """
    model = without_wrappers(model)
    converted, report = convert_checkpoint(model, checkpoint, source)
    load_converted(model, converted, report, exact)
    notify_user(str(report))


def check_classes(cfg: Mapping[str, Any], checkpoint: Mapping[str, Any], source: str) -> None:
    """Compares the classes that a checkpoint was trained on with those of the config's data set.

    Other names for as many classes are a warning: they may mean the same.

    Raises:
        UserError: they are the same in another order.
    """
    trained = [str(name) for name in dataset_meta(checkpoint).get("classes") or ()]
    datasets = [d for split in ("train", "test") for d in split_datasets(dict(cfg), split)]
    classes = list(class_names(dict(cfg), datasets[0])) if datasets else []
    if not trained or len(trained) != len(classes) or trained == classes:
        return
    label = next(i for i, name in enumerate(classes) if name != trained[i])
    difference = f"label {label} is {classes[label]!r} in the config and {trained[label]!r} there"
    if sorted(trained) == sorted(classes):
        raise UserError(
            f"{source} was trained on the same classes in another order ({difference}): use its "
            "order in the config and in all annotation files"
        )
    notify_user(f"warning: {source} was trained on classes of other names ({difference})")


def check_scale(cfg: Config, checkpoint: Mapping[str, Any], source: str) -> None:
    """Tells it if a checkpoint's training evaluated images of another size than the config."""
    meta = checkpoint.get("meta")
    trained = _sides(meta.get("test_scale") if isinstance(meta, Mapping) else None)
    scale = _sides(tested_scale(cfg))
    if trained and scale and sorted(trained) != sorted(scale):
        there, here = (" x ".join(map(str, sides)) for sides in (trained, scale))
        notify_user(
            f"warning: the training of {source} evaluated images of {there} pixels, this config "
            f"has {here}: the config in its work dir has what it was trained with"
        )


def _sides(scale: Any) -> list[int]:
    sides = list(scale) if isinstance(scale, (list, tuple)) else [scale] * 2
    return sides if len(sides) <= 2 and all(type(side) is int for side in sides) else []


def without_wrappers(model: nn.Module) -> nn.Module:
    """The model within those for distributed training and test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = cast(nn.Module, model.module)
    return model
