"""Files that cannot be read while a model is trained or evaluated: named, or replaced by others."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log

from swin_dense.datasets.image_files import UnreadableImageError, check_file
from swin_dense.errors import UserError

_LONGEST = 200  # characters of another library's message
_IGNORED = 255
_HINT = "replace or remove it, or train with --skip-bad-images"


class GuardedStep:
    """A step of a pipeline that reads files; an error names the file.

    Args:
        step: the step.
        skipped: (number of samples,) uint8 in shared memory, where a sample is set to 1 if a file
            of it cannot be used; the data set then takes another sample instead. Without it, that
            is an error.
        classes: how many a label map numbers; None where there are no label maps.
    """

    def __init__(
        self, step: Any, skipped: torch.Tensor | None = None, classes: int | None = None
    ) -> None:
        self.step = step
        self.skipped = skipped
        self.classes = classes

    def __call__(self, results: dict[str, Any]) -> Any:
        """What the step returns, or None for a sample that is skipped.

        Raises:
            UserError: a file cannot be used.
        """
        try:
            return self.read(results)
        except UnreadableImageError as error:
            index = results.get("sample_idx")
            if self.skipped is None or index is None:
                raise UserError(f"{error}; {_HINT}") from error
            if not self.skipped[index]:
                self.skipped[index] = 1
                print_log(f"skipped {error}", logger="current")
            return None

    def read(self, results: dict[str, Any]) -> Any:
        """What the step returns.

        Raises:
            UnreadableImageError: a file cannot be used; the message begins with its name.
        """
        path = self._path(results)
        try:
            if path and Path(path).is_file():  # else it is on remote storage, or not there
                check_file(Path(path))
            found = self.step(results)
        except (UserError, MemoryError):
            raise
        except UnreadableImageError as error:
            raise UnreadableImageError(f"{path} cannot be read: {error}") from error
        except Exception as error:  # decoders raise almost anything
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:_LONGEST]
            raise UnreadableImageError(f"{path} cannot be read ({reason})") from error
        if isinstance(found, dict):
            _check_sizes(found)
            if self.classes is not None:
                _check_labels(found, self.classes)
        return found

    def __repr__(self) -> str:
        return repr(self.step)

    def _path(self, results: dict[str, Any]) -> str | None:
        if "Annotations" in type(self.step).__name__ and results.get("seg_map_path"):
            return results["seg_map_path"]
        return results.get("img_path")


def guard_reading(dataset: Any, skips: bool) -> None:
    """Guard all steps of a data set, and of those that it wraps, which read files.

    Args:
        dataset: built by mmengine.
        skips: whether samples that cannot be read are replaced by others.
    """
    for one in _datasets(dataset):
        steps = getattr(getattr(one, "pipeline", None), "transforms", None)
        if not isinstance(steps, list):
            continue
        reading = [i for i, step in enumerate(steps) if type(step).__name__.startswith("Load")]
        skipped = None
        if skips and reading:
            skipped = torch.zeros(len(one), dtype=torch.uint8).share_memory_()
        for i in reading:
            steps[i] = GuardedStep(steps[i], skipped, _classes_of_label_maps(one))


def _classes_of_label_maps(dataset: Any) -> int | None:
    has_maps = hasattr(dataset, "reduce_zero_label") and hasattr(dataset, "metainfo")  # mmseg's
    return len(dataset.metainfo.get("classes") or ()) or None if has_maps else None


def skipped_files(dataset: Any) -> list[str]:
    """The files that were skipped, each with the reason."""
    found = []
    for one in _datasets(dataset):
        steps = getattr(getattr(one, "pipeline", None), "transforms", None) or []
        guards = [step for step in steps if isinstance(step, GuardedStep)]
        if not guards or guards[0].skipped is None:
            continue
        for index in guards[0].skipped.nonzero().flatten().tolist():
            found.append(_reason(guards, one.get_data_info(index)))
    return found


def _reason(guards: list[GuardedStep], results: dict[str, Any]) -> str:
    path = results.get("img_path")
    for guard in guards:
        try:
            results = guard.read(results)
        except UnreadableImageError as error:
            return str(error)
    return f"{path} could not be read"


def _datasets(dataset: Any) -> Iterator[Any]:
    """A data set and all that it wraps."""
    yield dataset
    for inner in [getattr(dataset, "dataset", None), *(getattr(dataset, "datasets", None) or [])]:
        if inner is not None:
            yield from _datasets(inner)


def _check_sizes(results: dict[str, Any]) -> None:
    """Raise if an image has another size than its annotations, or its label map."""
    size = results.get("ori_shape")
    said = (results.get("height"), results.get("width"))
    if size is not None and None not in said and tuple(size) != said:
        raise UnreadableImageError(
            f"{results.get('img_path')} has {size[1]} x {size[0]} pixels, but its annotations are "
            f"for {said[1]} x {said[0]}"
        )
    label_map = results.get("gt_seg_map")
    if size is not None and label_map is not None and label_map.shape[:2] != tuple(size):
        height, width = label_map.shape[:2]
        raise UnreadableImageError(
            f"{results.get('seg_map_path')} has {width} x {height} pixels, but its image "
            f"{size[1]} x {size[0]}"
        )


def _check_labels(results: dict[str, Any], classes: int) -> None:
    """Raise if a label map has a value that is no class: the check before training reads a part."""
    labels = results.get("gt_seg_map")
    if labels is None or labels.size == 0 or labels.max() < classes:
        return
    unknown = labels[(labels >= classes) & (labels != _IGNORED)]
    if unknown.size:
        first = int(bool(results.get("reduce_zero_label")))
        raise UnreadableImageError(
            f"{results.get('seg_map_path')} contains the value {int(unknown.max()) + first}, but "
            f"{classes} classes are numbered {first} to {classes - 1 + first}, and {_IGNORED} is "
            "ignored"
        )
