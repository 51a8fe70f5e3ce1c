"""Where a training step makes the host wait for a GPU, found without one.

A GPU runs behind the host, which queues its work. Where the host needs a number or a size that is
still being computed, it waits for all that is queued, and afterwards the GPU waits for the host.
Here the step runs on a CPU that pretends to be both: tensors made from Python numbers or arrays,
and results of such tensors alone, are the host's; all others are the device's. What would wait:

- an operator whose result, or its size, the host has to know (``.item()``, ``if tensor``,
  ``nonzero``, indexing with a mask, ``unique``, NMS), on the device's tensors;
- a copy between host and device that is not asked to be asynchronous.

Copies of host tensors by operators written in C++, and optimizers (PyTorch's for GPUs do not wait),
are not looked at.
"""

import copy
import re
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchvision
from mmengine.config import Config
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from swin_dense.analysis.building import random_batch
from swin_dense.analysis.parity import build_optimizer
from swin_dense.benchmarks.detector import build_model
from swin_dense.config_tree import is_segmentation
from swin_dense.engine.config.pretrained import drop_pretrained
from swin_dense.engine.runner import copy_ahead
from swin_dense.ops.dispatch import OperatorCounter, forward_traceback

PACKAGES = ("swin_dense", "mmdet", "mmseg", "mmcv", "mmengine")
# The names of operators, without their overloads.
_WAITING = {
    f"aten::{name}"
    for name in (
        *("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "bincount"),
        *("_unique", "_unique2", "unique_dim", "unique_consecutive", "histc", "argwhere"),
    )
} | {"torchvision::nms"}
_INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
_MASKS = (torch.bool, torch.uint8)
_FROM_NUMBERS = {"tensor", "as_tensor", "new_tensor"}
_TO_HOST = {"cpu", "numpy", "tolist", "__array__"}
# What only CPUs do: they read which branches stochastic depth drops, and leave these out.
_ON_CPUS_ONLY = {("swin_dense/ops/block/pytorch.py", "copy to the host")}
_FRAME = re.compile(r'File "(.+)", line (\d+)')
_LIBRARIES = tuple(str(Path(str(m.__file__)).parent) + "/" for m in (torch, torchvision))
_OPTIMIZERS = str(Path(torch.optim.__file__).parent) + "/"


class Wait(NamedTuple):
    """A line of code that waits: its file below the folder of packages, and what it calls."""

    file: str
    line: int
    call: str

    @property
    def package(self) -> str:
        """The package that the file belongs to."""
        return self.file.partition("/")[0]


def count_waits(cfg: Config, size: tuple[int, int], images: int) -> Counter[Wait]:
    """The waits of the second training step of a config's model, on noise with a few objects.

    The first one also waits for what is then kept.

    Args:
        cfg: of a detector or segmentor.
        size: height and width of the images in pixels.
        images: in the batch.
    """
    cfg = copy.deepcopy(cfg)
    drop_pretrained(cfg)
    if is_segmentation(cfg):
        cfg.model.data_preprocessor.size = size  # else images are padded to the crop's
    model: Any = build_model(cfg, torch.device("cpu:0")).train()
    copy_ahead(model)
    optimizer, batch = build_optimizer(model, cfg), random_batch(cfg, size, images)
    for _ in range(2):
        data = copy.deepcopy(batch)
        with WaitCounter() as counter:
            counter.belongs_to_host(data["inputs"])
            for sample in data["data_samples"]:
                counter.belongs_to_host([part.values() for part in sample.values()])
            model.train_step(data, optimizer)
    return counter.waits


def measure_waits(
    configs: Mapping[str, Config], size: tuple[int, int], images: int
) -> dict[str, Any]:
    """``settings`` and ``models``: of each config the waits of packages, and of lines of code."""
    models = []
    for name, cfg in configs.items():
        waits = count_waits(cfg, size, images)
        packages: Counter[str] = Counter()
        for wait, count in waits.items():
            packages[wait.package] += count
        lines = [[wait.file, wait.line, wait.call, count] for wait, count in sorted(waits.items())]
        models.append({"name": name, "waits": dict(packages), "lines": lines})
    return {"settings": {"size": list(size), "batch": images}, "models": models}


def wait_rows(record: Mapping[str, Any]) -> list[list[str]]:
    """Headings, and a row of cells for each config."""
    rows = [["", *PACKAGES, "all"]]
    for one in record["models"]:
        counts = [one["waits"].get(package, 0) for package in PACKAGES]
        rows.append([one["name"], *map(str, counts), str(sum(one["waits"].values()))])
    return rows


def wait_notes(record: Mapping[str, Any]) -> list[str]:
    """What is counted, and the lines of this package."""
    ours: dict[str, list[str]] = {}
    for one in record["models"]:
        for file, line, call, _ in one["lines"]:
            if file.startswith(PACKAGES[0]):
                names = ours.setdefault(
                    f"{file.removeprefix(PACKAGES[0] + '/')}:{line} ({call})", []
                )
                names.append(one["name"])
    lines = "; ".join(f"{place} in {', '.join(names)}" for place, names in sorted(ours.items()))
    return [
        "How often the host waits for a GPU in a training step, by the package whose code waits: "
        "counted on a CPU, in float32, at the second step.",
        f"In swin_dense: {lines or 'none'}.",
    ]


class WaitCounter:
    """Within it, ``waits`` counts the waits of each line of code.

    The model and its input have to be on the device ``cpu:0``, which stands for the GPU;
    :meth:`belongs_to_host` says which tensors do not.
    """

    def __init__(self) -> None:
        self.waits: Counter[Wait] = Counter()
        # Storages, by identity. They are kept alive: another one could get the same identity.
        self._host: dict[int, Any] = {}
        self._ignored = 0
        self._modes = (_Functions(self), _Operators(self))
        self._anomalies = torch.autograd.set_detect_anomaly(True, check_nan=False)

    def __enter__(self) -> "WaitCounter":
        self._anomalies.__enter__()
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)
        self._anomalies.__exit__(*error)

    def belongs_to_host(self, data: Any) -> None:
        """Takes all tensors of ``data`` for the host's."""
        for x in _tensors(data):
            storage = x.untyped_storage()
            self._host[storage._cdata] = storage

    def belongs_to_device(self, x: Tensor) -> None:
        """Takes a tensor for the device's."""
        self._host.pop(x.untyped_storage()._cdata, None)

    def is_host(self, x: Tensor) -> bool:
        """Whether the host has this tensor."""
        return x.untyped_storage()._cdata in self._host

    def count(self, call: str) -> None:
        """Counts a wait in the line that is running."""
        place = None if self._ignored else _place()
        if place and (place[0], call) not in _ON_CPUS_ONLY:
            self.waits[Wait(*place, call)] += 1


class _Operators(OperatorCounter):
    """Counts operators that wait, wherever they are called, in backward too."""

    def __init__(self, counter: WaitCounter) -> None:
        super().__init__()
        self.counter = counter

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Look at an operator, then run it."""
        kwargs = kwargs or {}
        if _waits(func.name().partition(".")[0], args, kwargs):
            tensors = list(_tensors((args, kwargs)))
            if not all(map(self.counter.is_host, tensors)):
                self.counter.count(func.name().partition(".")[0].rpartition(":")[2])
        result = func(*args, **kwargs)
        if func is torch.ops.aten.lift_fresh.default:  # of Python's numbers
            self.counter.belongs_to_host(result)
        return result


def _waits(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    if name in _INDEXING:
        masks = [x for x in args[1] if x is not None and x.dtype in _MASKS]
        # Setting a single number is masked_fill, which needs no sizes.
        fills = name != "aten::index" and args[2].ndim == 0 and len(masks) == len(args[1]) == 1
        return bool(masks) and not fills
    if name == "aten::repeat_interleave":
        return kwargs.get("output_size") is None
    return name in _WAITING


class _Functions(TorchFunctionMode):
    """Counts copies between host and device, and notes which side tensors belong to."""

    def __init__(self, counter: WaitCounter) -> None:
        super().__init__()
        self.counter = counter

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, counter = kwargs or {}, self.counter
        if func == Tensor.device.__get__:
            device = func(*args)
            return device if counter.is_host(args[0]) else torch.device(device.type, 0)
        name = getattr(func, "__name__", "")
        tensors = list(_tensors((args, kwargs)))
        before = all(map(counter.is_host, tensors)) and bool(tensors)  # True: all are the host's
        after = self._side_after(name, args, kwargs, before)
        # A CPU checks the classes first; a GPU's kernel does so itself.
        checks = func is F.one_hot and (len(args) > 1 or "num_classes" in kwargs)
        counter._ignored += checks
        result = func(*args, **kwargs)
        counter._ignored -= checks
        itself = bool(args) and result is args[0] and isinstance(result, Tensor)
        if itself and name in ("to", "cpu", "cuda") and counter.is_host(result) != after:
            result, itself = result.clone(), False  # as a copy to another device would be
        if name in _FROM_NUMBERS and not after:
            counter.belongs_to_device(result)
        if after and not itself and name not in ("__get__", "__set__"):
            counter.belongs_to_host(result)
        return result

    def _side_after(self, name: str, args: tuple, kwargs: Mapping, before: bool) -> bool:
        """Whether the result is the host's; counts the copy to get there."""
        counter = self.counter
        if name in _TO_HOST:
            if not before:
                counter.count("copy to the host")
            return True
        if name == "__getitem__" and not before and not _indices_on_device(counter, args[1]):
            counter.count("index copied to the device")
        value = args[2] if name == "__setitem__" else None
        if isinstance(value, Tensor) and value.ndim and counter.is_host(value) and not before:
            counter.count("copy to the device")
        if name == "copy_" and len({counter.is_host(x) for x in args[:2]}) == 2:
            if not _asynchronous(args, kwargs):
                counter.count("copy between host and device")
            return counter.is_host(args[0])
        target = _target(name, args, kwargs, counter)
        if name in _FROM_NUMBERS:
            on_device = not before if name == "new_tensor" and target is None else target is False
            if on_device:
                counter.count("copy to the device")
            return not on_device
        if name in ("to", "type_as", "cuda"):
            before = counter.is_host(args[0])
            after = before if target is None else target
            if after != before and not _asynchronous(args, kwargs):
                counter.count(f"copy to the {'host' if after else 'device'}")
            return after
        if target is not None:
            return target
        return before or not any(True for _ in _tensors((args, kwargs)))


def _target(name: str, args: tuple, kwargs: Mapping, counter: WaitCounter) -> bool | None:
    """The side that a call names: True for the host, False for the device, None for neither."""
    for value in (kwargs.get("device"), *(args[1:] if name in ("to", "type_as") else ())):
        if isinstance(value, str):
            value = torch.device(value)
        if isinstance(value, torch.device):
            return value.index is None
        if isinstance(value, Tensor):
            return counter.is_host(value)
    return False if name == "cuda" else None


def _asynchronous(args: tuple, kwargs: Mapping) -> bool:
    return bool(kwargs.get("non_blocking")) or any(value is True for value in args[1:])


def _indices_on_device(counter: WaitCounter, index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    lists = any(isinstance(part, list) for part in parts)
    return not lists and not any(counter.is_host(x) for x in _tensors(parts) if x.ndim)


def _tensors(data: Any) -> Iterator[Tensor]:
    if isinstance(data, Tensor):
        yield data
    elif isinstance(data, Mapping):
        yield from _tensors(list(data.values()))
    elif isinstance(data, (list, tuple)):
        for part in data:
            yield from _tensors(part)


def _place() -> tuple[str, int] | None:
    """File and line of the innermost call outside of PyTorch; None within an optimizer."""
    frames: list[tuple[str, int]] = []
    frame: Any = traceback.walk_stack(None)
    for one, line in frame:
        frames.append((one.f_code.co_filename, line))
    if any(file.startswith(_OPTIMIZERS) for file, _ in frames):
        return None
    for file, line in frames:
        if file.endswith("/autograd/graph.py"):  # a gradient that is computed by C++
            break
        if file != __file__ and not file.startswith(_LIBRARIES):
            return _short(file), line
    for text in reversed(forward_traceback()):
        found = _FRAME.search(text)
        if found and found[1] != __file__ and not found[1].startswith(_LIBRARIES):
            return _short(found[1]), int(found[2])
    return None


def _short(file: str) -> str:
    """The path from the package on."""
    path = Path(file)
    package = path.parent
    while (package.parent / "__init__.py").is_file():
        package = package.parent
    inside = (package / "__init__.py").is_file()
    return path.relative_to(package.parent if inside else path.parent).as_posix()
