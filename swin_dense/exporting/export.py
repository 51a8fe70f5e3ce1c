"""Tracing a part of a model, converting it, and comparing the result with PyTorch."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from swin_dense.errors import UserError, reason_of
from swin_dense.ops.torch_versions import too_old

FORMATS = {"onnx": ".onnx", "torch-export": ".pt2"}
_NEEDS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "torch-export": ()}
# Versions of ONNX's operators: 18 is read by older runtimes, deformable convolutions came with 19.
_OPSET, _DEFORMABLE = 18, 20

Runner = Callable[[Tensor], list[Tensor]]


@dataclass(frozen=True)
class Exported:
    """A file's contents, and what it was verified with.

    Attributes:
        content: of the file.
        sizes: of the images that it was compared with PyTorch on, ``(B, H, W)``.
        largest_error: of these, relative to the largest value.
        outputs: names and shapes of what it gives, as ``boxes (B, 100, 4)``.
    """

    content: bytes
    sizes: list[tuple[int, int, int]]
    largest_error: float
    outputs: list[str]


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


def trace(graph: Any, size: tuple[int, int], name: str) -> Any:
    """A graph as a program of torch.export with dynamic batch, height and width.

    Args:
        graph: of :func:`~.graphs.make_graph`.
        size: height and width to trace with, see :func:`example_size`.
        name: of the config, for messages.

    Raises:
        UserError: it cannot be traced.
    """
    from torch.export import Dim, export

    axes = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    with _stage(name, "cannot be exported"), torch.no_grad(), _quiet():
        return export(graph, (_image(2, *size),), dynamic_shapes=(axes,))


def convert(
    program: Any, graph: Any, format: str, name: str, metadata: Mapping[str, str] | None = None
) -> Exported:
    """What :func:`trace` made as a file, compared with PyTorch on three sizes.

    Args:
        program: of :func:`trace`.
        graph: what was traced.
        format: one of :data:`FORMATS`.
        name: of the config, for messages.
        metadata: to write into the file.

    Raises:
        UserError: it cannot be converted, or disagrees with PyTorch on one of the sizes.
    """
    with _stage(name, f"cannot be exported as {format}"), torch.no_grad(), _quiet():
        names = graph.names(len(program.graph_signature.user_outputs))
        content = _CONVERT[format](program, names, metadata or {})
        run = _LOAD[format](content)
    (example,) = program.example_inputs[0]
    sizes, errors, shapes = check_sizes(tuple(example.shape[2:])), [], []
    for one in sizes:
        with _stage(name, f"as {format} fails for images of {_text(one)}"), torch.no_grad():
            image = _image(*one)
            found = run(image)
            shapes.append([tuple(x.shape) for x in found])
            errors.append(graph.error(found, image))
        if not errors[-1] <= graph.tolerance:
            raise UserError(
                f"{name} as {format} differs from PyTorch for images of {_text(one)}, by "
                f"{errors[-1]:.1e} of the largest value: nothing was written"
            )
    outputs = [f"{name} {_shape(*shape)}" for name, *shape in zip(names, *shapes, strict=True)]
    return Exported(content, sizes, max(errors), outputs)


def _shape(*found: tuple[int, ...]) -> str:
    """The shape of an output, with letters for what differs with the size of images."""
    letters = ["B", "C", "h", "w"] if len(found[0]) == 4 else ["B", "h", "w"]
    sides = [
        str(sides[0]) if i and len(set(sides)) == 1 else letters[i]
        for i, sides in enumerate(zip(*found, strict=True))
    ]
    return f"({', '.join(sides)})"


def _image(batch: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(height * width)
    return torch.rand(batch, 3, height, width, generator=generator) * 255


def _to_onnx(program: Any, names: list[str], metadata: Mapping[str, str]) -> bytes:
    import onnx

    graphs = [part.graph for part in program.graph_module.modules() if hasattr(part, "graph")]
    targets = [str(node.target) for graph in graphs for node in graph.nodes]
    deformable = any("deform_conv2d" in target for target in targets)
    found = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=_DEFORMABLE if deformable else _OPSET,
        input_names=["image"],
        output_names=names,
        verbose=False,
    )
    assert found is not None
    proto = found.model_proto
    onnx.helper.set_model_props(proto, dict(metadata))
    content: bytes = proto.SerializeToString()
    return content


def _to_program(program: Any, names: list[str], metadata: Mapping[str, str]) -> bytes:
    file = io.BytesIO()
    torch.export.save(program, file, extra_files=dict(metadata))
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
