"""Tracing a part of a model, converting it, and comparing the result with PyTorch."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from swin_dense.errors import UserError, reason_of
from swin_dense.ops.torch_versions import too_old

FORMATS = {"onnx": ".onnx", "torch-export": ".pt2"}
_NEEDS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "torch-export": ()}
# Of the largest value of a result; float32 has 1e-7, and sums are in another order.
_TOLERANCE = 1e-4
_OPSET = 18

Runner = Callable[[Tensor], list[Tensor]]


@dataclass(frozen=True)
class Exported:
    """A file's contents, and what it was verified with.

    Attributes:
        content: of the file.
        sizes: of the images that it was compared with PyTorch on, ``(B, H, W)``.
        largest_error: of these, relative to the largest value.
    """

    content: bytes
    sizes: list[tuple[int, int, int]]
    largest_error: float


def check_format(format: str) -> None:
    """Raises a UserError if PyTorch is too old for a format, or a package of it is missing."""
    if reason := too_old(2, 6):
        raise UserError(f"--format {format} {reason}")
    if missing := [name for name in _NEEDS[format] if find_spec(name) is None]:
        raise UserError(f"--format {format} needs {' '.join(missing)}: pip install onnx onnxscript "
                        "onnxruntime")  # fmt: skip


def check_sizes(size: tuple[int, int]) -> list[tuple[int, int, int]]:
    """Three sizes ``(B, H, W)`` beside that of tracing: other multiples, none, and one image."""
    height, width = size
    return [(1, height, width), (2, height + 32, width + 64), (1, width + 5, height + 39)]


def example_size(backbone: Any) -> tuple[int, int]:
    """Height and width of images to trace with.

    Every stage of a Swin needs more than one window in both directions: where there is one, the
    graph would be for that size alone.
    """
    side = 224
    for i, stage in enumerate(getattr(backbone, "stages", ())):
        windows = [getattr(layer, "window_size", 0) for layer in stage.modules()]
        side = max([side, *(int(max(_pair(window))) * 4 * 2**i for window in windows)])
    return side + 32, side + 96


def _pair(window: Any) -> Sequence[int]:
    return window if isinstance(window, (tuple, list)) else (window,)


def export(graph: Any, format: str, size: tuple[int, int], name: str) -> Exported:
    """Exports a graph of :func:`~.graphs.make_graph` with dynamic batch, height and width.

    Args:
        graph: images ``(B, 3, H, W)`` to tensors.
        format: one of :data:`FORMATS`.
        size: height and width to trace with, see :func:`example_size`.
        name: of the config, for messages.

    Raises:
        UserError: it cannot be traced or converted, or disagrees with PyTorch on one of three
            sizes.
    """
    with _stage(name, f"cannot be exported as {format}"), torch.no_grad(), _quiet():
        program = _trace(graph, size)
        content = _CONVERT[format](program, graph)
        run = _LOAD[format](content)
    sizes, errors = check_sizes(size), []
    for one in sizes:
        with _stage(name, f"as {format} fails for images of {_text(one)}"), torch.no_grad():
            image = _image(*one)
            errors.append(graph.error(run(image), image))
        if not errors[-1] <= _TOLERANCE:
            raise UserError(
                f"{name} as {format} differs from PyTorch for images of {_text(one)}, by "
                f"{errors[-1]:.1e} of the largest value: nothing was written"
            )
    return Exported(content, sizes, max(errors))


def _trace(graph: Any, size: tuple[int, int]) -> Any:
    from torch.export import Dim, export

    axes = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    return export(graph, (_image(2, *size),), dynamic_shapes=(axes,))


def _image(batch: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(height * width)
    return torch.rand(batch, 3, height, width, generator=generator) * 255


def _to_onnx(program: Any, graph: Any) -> bytes:
    found = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=_OPSET,
        input_names=["image"],
        output_names=graph.names(len(program.graph_signature.user_outputs)),
        verbose=False,
    )
    assert found is not None
    return found.model_proto.SerializeToString()


def _to_program(program: Any, graph: Any) -> bytes:
    file = io.BytesIO()
    torch.export.save(program, file)
    return file.getvalue()


def _load_onnx(content: bytes) -> Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors come as exceptions too
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda x: [torch.from_numpy(y) for y in session.run(None, {"image": x.numpy()})]


def _load_program(content: bytes) -> Runner:
    module = torch.export.load(io.BytesIO(content)).module()

    def run(x: Tensor) -> list[Tensor]:
        found = module(x)
        return [found] if isinstance(found, Tensor) else list(found)

    return run


_CONVERT = {"onnx": _to_onnx, "torch-export": _to_program}
_LOAD = {"onnx": _load_onnx, "torch-export": _load_program}


def _text(size: tuple[int, int, int]) -> str:
    return " x ".join(map(str, size))


@contextlib.contextmanager
def _stage(name: str, what: str) -> Iterator[None]:
    """Makes a user error of whatever goes wrong in PyTorch, ONNX or its runtime."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{name} {what}, nothing was written: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """The error that the others were raised from, in one line."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return reason_of(cause if isinstance(cause, Exception) else error)[:300]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Within it, the compiler and the exporter neither warn nor log."""
    loggers = [logging.getLogger(name) for name in ("torch", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
