"""Values of a config that would fail far from where they were written, or train nothing."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from swin_dense.errors import UserError

_MAPPING = "a dictionary"
_WHOLE = "a whole number"
_POSITIVE = "a whole number above 0"
_STRING = "a string"
# What a key may hold besides None; a star stands for every key of a dictionary or list.
_EXPECTED = {
    _MAPPING: (
        *("model", "optim_wrapper", "default_hooks", "env_cfg", "randomness", "own_data"),
        *("auto_scale_lr", "train_cfg", "train_dataloader", "val_dataloader", "test_dataloader"),
        *("default_hooks.*", "custom_hooks.*", "optim_wrapper.clip_grad"),
        *("optim_wrapper.paramwise_cfg", "optim_wrapper.paramwise_cfg.custom_keys"),
        *("*_dataloader.dataset", "*_dataloader.sampler", "*_dataloader.dataset.metainfo"),
        *("*_dataloader.dataset.data_prefix", "*_dataloader.dataset.filter_cfg"),
        *("*_dataloader.dataset.pipeline.*", "visualizer", "visualizer.vis_backends.*"),
    ),
    "a list": ("custom_hooks", "*_dataloader.dataset.pipeline", "visualizer.vis_backends"),
    _STRING: ("default_scope", "load_from", "work_dir", "*_dataloader.dataset.ann_file"),
    _POSITIVE: (
        *("train_cfg.max_epochs", "train_cfg.max_iters", "train_cfg.val_interval"),
        *("*_dataloader.batch_size", "optim_wrapper.accumulative_counts"),
        *("default_hooks.logger.interval", "auto_scale_lr.base_batch_size"),
        "*_dataloader.prefetch_factor",
    ),
    _WHOLE: (
        *("*_dataloader.num_workers", "default_hooks.checkpoint.interval", "randomness.seed"),
        *("default_hooks.checkpoint.max_keep_ckpts", "log_processor.window_size"),
    ),
}
_HOLDS = {
    _MAPPING: lambda value: isinstance(value, Mapping),
    "a list": lambda value: isinstance(value, (list, tuple)),
    _STRING: lambda value: isinstance(value, (str, Path)),
    _POSITIVE: lambda value: isinstance(value, int) and value > 0,
    _WHOLE: lambda value: isinstance(value, int),
}


def check_values(cfg: Mapping[str, Any]) -> None:
    """Checks the types of what mmengine's runner and our tools read from a config.

    Raises:
        UserError: one of them cannot be what its key says, such as ``train_cfg.max_epochs = 0``.
    """
    for expected, keys in _EXPECTED.items():
        for key in keys:
            for name, value in _matches(cfg, key.split(".")):
                if value is not None and not _HOLDS[expected](value):
                    raise UserError(f"the config's {name} is {value!r}: expected {expected}")


def _matches(node: Any, key: list[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the value of every place that a key means."""
    if not key:
        yield prefix.removesuffix("."), node
        return
    if isinstance(node, Mapping):
        items = dict(node)
    elif isinstance(node, (list, tuple)):
        items = {str(index): value for index, value in enumerate(node)}
    else:
        return
    star, ending = key[0].startswith("*"), key[0].removeprefix("*")
    for name, value in items.items():
        if name == key[0] or (star and str(name).endswith(ending)):
            yield from _matches(value, key[1:], f"{prefix}{name}.")
