"""What is about to be trained, told before the first step."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.dist import get_world_size, master_only
from mmengine.hooks import Hook

from swin_dense import config_tree
from swin_dense.datasets.coco_file import read_coco
from swin_dense.datasets.label_maps import classes_found
from swin_dense.datasets.names import RARE, shortened
from swin_dense.engine.config.hardware import advise_learning_rate
from swin_dense.engine.terminal.console import notify_user
from swin_dense.engine.terminal.hooks import is_epoch_based
from swin_dense.registry import HOOKS

_SHOWN = 6  # classes with their counts, the most frequent first


@HOOKS.register_module()
class SummaryHook(Hook):
    """Tells images, objects, classes, steps, learning rate and schedule, in a few lines.

    Annotation files are not read again: :func:`~swin_dense.datasets.coco_file.read_coco` keeps what
    the check of the data has read.
    """

    priority = "HIGH"  # before the progress bar

    @master_only
    def before_train(self, runner: Any) -> None:
        """Tells it, when a checkpoint that is resumed was loaded."""
        data = [_data_in_words(runner.cfg, split) for split in ("train", "val")]
        for line in (*(line for lines in data for line in lines), *_run_in_words(runner)):
            notify_user(line)


def _data_in_words(cfg: Any, split: str) -> Iterator[str]:
    """Images and objects of a split, and which classes have few or none."""
    files, found, classes = {}, dict[str, int](), list[str]()
    for dataset in config_tree.split_datasets(cfg, split):
        name = str(dataset.get("ann_file") or "")
        path = config_tree.resolve(dataset, name)
        if config_tree.is_unlabeled(dataset) or not name.endswith(".json") or not path.is_file():
            continue
        classes = list(config_tree.class_names(cfg, dataset))
        if path not in files:
            files[path] = file = read_coco(path)
            for key in file.ids_of(classes):
                name = file.categories[key]
                found[name] = found.get(name, 0) + file.objects.get(key, 0)
    if not files:
        yield from _label_maps_in_words(cfg, split)
        return
    images = sum(len(file.file_names) for file in files.values())
    order = sorted((name for name in classes if found.get(name)), key=lambda name: -found[name])
    counts = shortened([f"{name} {found[name]}" for name in order], _SHOWN)
    objects = f"{sum(found.values())} objects of {len(order)} classes"
    if split == "val" and set(files) <= set(_files(cfg, "train")):
        yield f"val: {images} images of the same file, so this measures what is learned by heart"
        return
    yield f"{split}: {images} images, {objects}: {counts}"
    rare = [f"{name} {found[name]}" for name in reversed(order) if found[name] < RARE]
    if rare and split == "train":
        yield f"{split}: fewer than {RARE} objects: {shortened(rare, _SHOWN)}"
    if absent := [name for name in classes if not found.get(name)]:
        yield f"{split}: classes without objects ({len(absent)}): {shortened(absent, _SHOWN)}"


def _label_maps_in_words(cfg: Any, split: str) -> Iterator[str]:
    """In how many label maps the classes are, of those that the check of the data has read."""
    for dataset in config_tree.split_datasets(cfg, split):
        if (found := classes_found(dataset)) is None:
            continue
        counts = found.counts
        order = sorted((name for name in counts if counts[name]), key=lambda name: -counts[name])
        shown = shortened([f"{name} {counts[name]}" for name in order], _SHOWN)
        where = "label maps" if found.read == found.maps else f"a sample of {found.read} label maps"
        classes = f"{len(order)} of {len(counts)} classes"
        yield f"{split}: {found.maps} images, {classes} in {where}: {shown}"


def _files(cfg: Any, split: str) -> Iterator[Path]:
    for dataset in config_tree.split_datasets(cfg, split):
        yield config_tree.resolve(dataset, str(dataset.get("ann_file") or ""))


def _run_in_words(runner: Any) -> Iterator[str]:
    """Steps, batch and learning rate; what was changed in the schedule."""
    loader, processes = runner.train_dataloader, get_world_size()
    images, steps = len(loader.dataset), runner.max_iters
    batch = getattr(loader.batch_sampler, "batch_size", None) or loader.batch_size
    text = f"{steps} steps, each image {steps * batch * processes / max(images, 1):.3g} times"
    if is_epoch_based(runner):
        text = f"{len(loader)} steps x {runner.max_epochs} epochs = {steps}"
    many = f" x {processes} processes" if processes > 1 else ""
    accumulated = getattr(runner.optim_wrapper, "_accumulative_counts", 1)
    many += f", gradients of {accumulated} added up" if accumulated > 1 else ""
    rate = advise_learning_rate(runner.cfg, steps)
    yield f"{images} images for training: {text}; batch {batch}{many}; {rate}"
    if changed := getattr(runner, "fitted_schedule", ""):
        yield f"schedule: {changed}"
