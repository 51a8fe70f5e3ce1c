"""Reads files of ``torch.save`` without running code, where PyTorch's own reader is not safe.

``torch.load(weights_only=True)`` can be made to run code before PyTorch 2.6 (CVE-2025-32434), and
to write outside of its memory before 2.10 (CVE-2026-24747). This reader asks nothing of PyTorch
but tensors of given bytes, and of pickle's instructions it follows those that build plain data:
numbers, texts, containers, tensors, numpy's arrays and scalars, and types that the caller adds.
"""

import math
import pickle
import sys
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import IO, Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

# Booleans, integers, real numbers and texts: types of numpy whose bytes are only data.
_NUMPY_CODES = "?bhilqBHILQefdU"
# Numpy's own names for what makes arrays and scalars, in the packages of its versions 1 and 2.
_NUMPY_PACKAGES = ("numpy.core.multiarray", "numpy._core.multiarray")
_MAGIC = 0x1950A86A20F9469CFC6C
_FORBIDDEN = (
    *(pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4),
    *(pickle.PERSID, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
)
_STORAGES = {
    "Double": torch.double,
    "Float": torch.float,
    "Half": torch.half,
    "BFloat16": torch.bfloat16,
    "Bool": torch.bool,
    "Byte": torch.uint8,
    "Char": torch.int8,
    "Short": torch.short,
    "Int": torch.int,
    "Long": torch.long,
    "ComplexFloat": torch.cfloat,
    "ComplexDouble": torch.cdouble,
}
# The flat tensor of a storage, from its dtype, its key in the file and its number of elements.
_FindStorage = Callable[[torch.dtype, str, int], Tensor]


def read_pickled(file: IO[bytes], device: torch.device, allowed: Mapping[str, Any]) -> Any:
    """What ``torch.save`` wrote, in the present format or that of PyTorch before 1.6.

    Args:
        file: an open file at its start.
        device: where tensors go; on the meta device their numbers are not read.
        allowed: more types and functions, by the names that files give them. Attributes of the
            types' objects are set as the file says.

    Raises:
        pickle.UnpicklingError: the file asks for something else.
        Exception: almost any, if it was not written by ``torch.save``.
    """
    start = file.tell()
    is_zip = file.read(4) == b"PK\x03\x04"
    file.seek(start)
    return (_read_zip if is_zip else _read_legacy)(file, device, allowed)


def _read_zip(file: IO[bytes], device: torch.device, allowed: Mapping[str, Any]) -> Any:
    with zipfile.ZipFile(file) as archive:
        (pickled,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        folder = pickled.removesuffix("/data.pkl")
        if not any(member.CRC for member in archive.infolist()):
            for member in archive.infolist():  # PyTorch can be told to write none
                del member.CRC
        order = f"{folder}/byteorder"
        if order in archive.namelist() and archive.read(order) != sys.byteorder.encode():
            raise pickle.UnpicklingError("written on a machine of another byte order")

        @cache
        def content(key: str) -> Tensor:
            return _bytes(archive.read(f"{folder}/data/{key}")).to(device)

        def find(dtype: torch.dtype, key: str, numel: int) -> Tensor:
            if device.type == "meta":
                return torch.empty(numel, dtype=dtype, device=device)
            return _typed(content(key), dtype, numel)

        with archive.open(pickled) as opened:
            return _Unpickler(opened, find, allowed).load()


def _read_legacy(file: IO[bytes], device: torch.device, allowed: Mapping[str, Any]) -> Any:
    def no_storage(*_: Any) -> Tensor:
        raise pickle.UnpicklingError("a tensor in the head of the file")

    magic, _, system = (_Unpickler(file, no_storage, {}).load() for _ in range(3))
    if magic != _MAGIC or system["little_endian"] != (sys.byteorder == "little"):
        raise pickle.UnpicklingError("not a file of torch.save, or of another byte order")
    start = file.tell()
    # Numbers come last: first see how many there are of each.
    sizes: dict[str, tuple[int, int]] = {}

    def on_meta(dtype: torch.dtype, key: str, numel: int) -> Tensor:
        sizes[key] = numel, dtype.itemsize
        return torch.empty(numel, dtype=dtype, device="meta")

    without_numbers = _Unpickler(file, on_meta, allowed).load()
    if device.type == "meta":
        return without_numbers
    storages = {}
    for key in _Unpickler(file, no_storage, {}).load():
        numel, itemsize = sizes[key]
        if int.from_bytes(file.read(8), sys.byteorder) != numel:
            raise pickle.UnpicklingError("a storage of another size")
        storages[key] = _bytes(file.read(numel * itemsize)).to(device)
    file.seek(start)
    return _Unpickler(file, lambda dt, key, n: _typed(storages[key], dt, n), allowed).load()


def _bytes(data: bytes) -> Tensor:
    """A tensor of bytes; PyTorch makes none of no bytes."""
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0).byte()


def _typed(data: Tensor, dtype: torch.dtype, numel: int) -> Tensor:
    if len(data) != numel * dtype.itemsize:
        raise pickle.UnpicklingError("a storage is cut off")
    return data.view(dtype)


def numpy_types() -> list[Any]:
    """The same types of numpy for ``torch.serialization.add_safe_globals``, from PyTorch 2.6 on."""
    # What numpy itself pickles arrays and scalars with, in whichever package it keeps them.
    rebuild = {"_reconstruct": np.zeros(1).__reduce__()[0], "scalar": np.float64(0).__reduce__()[0]}
    return [
        *(np.ndarray, np.dtype),
        *(type(np.dtype(code)) for code in _NUMPY_CODES),
        *((one, f"{room}.{name}") for room in _NUMPY_PACKAGES for name, one in rebuild.items()),
    ]


class _Call(NamedTuple):
    """Something that a file may call."""

    function: Any


_PythonUnpickler: Any = pickle._Unpickler  # in Python, by a table of instructions


class _Unpickler(_PythonUnpickler):
    """Follows the instructions of a pickle that build plain data."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(_PythonUnpickler.dispatch)

    def __init__(
        self, file: IO[bytes], find_storage: _FindStorage, allowed: Mapping[str, Any]
    ) -> None:
        super().__init__(file, encoding="utf-8")
        self._find_storage = find_storage
        self._names = _plain_types() | {name: _Call(one) for name, one in allowed.items()}
        self._types = {one for one in allowed.values() if isinstance(one, type)}

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}".replace("__builtin__.", "builtins.", 1)
        if full not in self._names:
            raise pickle.UnpicklingError(f"Unsupported global: GLOBAL {full}")
        return self._names[full]

    def persistent_load(self, pid: Any) -> Tensor:
        kind, dtype, key, _, numel, *view = pid
        is_whole = not view or view[0] is None
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not is_whole or numel < 0:
            raise pickle.UnpicklingError(f"Unsupported storage: {kind}")
        return self._find_storage(dtype, str(key), int(numel))

    def load_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack[-1]
        self.stack[-1] = self._call(function, arguments, lambda one: one)

    def load_newobj(self) -> None:
        arguments, kind = self.stack.pop(), self.stack[-1]
        self.stack[-1] = self._call(kind, arguments, lambda one: partial(one.__new__, one))

    def _call(self, function: Any, arguments: Any, how: Callable[[Any], Any]) -> Any:
        if type(function) is not _Call or type(arguments) is not tuple:
            raise pickle.UnpicklingError(f"Unsupported call of {type(function).__name__}")
        plain = [one.function if type(one) is _Call else one for one in arguments]
        return how(function.function)(*plain)

    def load_build(self) -> None:
        state, made = self.stack.pop(), self.stack[-1]
        if type(made) is np.ndarray:
            _fill(made, *state)
        elif isinstance(made, np.dtype):
            _check_order(*state)
        elif type(made) is OrderedDict or type(made) in self._types:
            vars(made).update(state)
        else:
            raise pickle.UnpicklingError(f"Unsupported state of {type(made).__name__}")

    def _top(self, *types: type) -> Any:
        if type(self.stack[-1]) not in types:
            raise pickle.UnpicklingError(f"Unsupported items of {type(self.stack[-1]).__name__}")
        return self.stack[-1]

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._top(dict, OrderedDict, Counter)[key] = value

    def load_setitems(self) -> None:
        items = self.pop_mark()
        into = self._top(dict, OrderedDict, Counter)
        for key, value in zip(items[::2], items[1::2], strict=True):
            into[key] = value

    def load_append(self) -> None:
        value = self.stack.pop()
        self._top(list).append(value)

    def load_appends(self) -> None:
        items = self.pop_mark()
        self._top(list).extend(items)

    def load_additems(self) -> None:
        items = self.pop_mark()
        self._top(set).update(items)

    for code in _FORBIDDEN:
        del dispatch[code[0]]
    for code, load in (
        *((pickle.REDUCE, load_reduce), (pickle.NEWOBJ, load_newobj), (pickle.BUILD, load_build)),
        *((pickle.SETITEM, load_setitem), (pickle.SETITEMS, load_setitems)),
        *((pickle.APPEND, load_append), (pickle.APPENDS, load_appends)),
        (pickle.ADDITEMS, load_additems),
    ):
        dispatch[code[0]] = load
    del code, load


@cache
def _plain_types() -> dict[str, Any]:
    """By the names that files give them: dtypes, and what may be called."""
    dtypes = {name: one for name, one in vars(torch).items() if isinstance(one, torch.dtype)}
    found: dict[str, Any] = {f"torch.{name}": one for name, one in dtypes.items()}
    found |= {f"torch.{name}Storage": one for name, one in _STORAGES.items()}
    found["torch.storage.UntypedStorage"] = torch.uint8
    tensor, parameter = torch.empty(0), nn.Parameter(torch.empty(0))
    functions = {
        _name(tensor.__reduce_ex__(2)[0]): _tensor,
        _name(parameter.__reduce_ex__(2)[0]): _parameter,
        "torch.Size": torch.Size,
        "torch.device": torch.device,
        "collections.OrderedDict": OrderedDict,
        "collections.Counter": Counter,
        "builtins.set": set,
        "builtins.complex": complex,
        "builtins.bytearray": bytearray,
        "_codecs.encode": _encode,
        "numpy.dtype": _dtype,
        **{f"{package}._reconstruct": _array for package in _NUMPY_PACKAGES},
        **{f"{package}.scalar": _scalar for package in _NUMPY_PACKAGES},
    }
    found |= {name: _Call(function) for name, function in functions.items()}
    return found | {"numpy.ndarray": np.ndarray}


def _name(function: Any) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def _tensor(
    flat: Tensor, offset: int, size: tuple, stride: tuple, requires_grad: bool, *_: Any
) -> Tensor:
    """A view of a storage; PyTorch checks that it is inside."""
    return flat.as_strided(size, stride, offset).requires_grad_(bool(requires_grad))


def _parameter(data: Tensor, requires_grad: bool, *_: Any) -> nn.Parameter:
    return nn.Parameter(data, requires_grad=bool(requires_grad))


def _encode(text: str, encoding: str) -> bytes:
    """Bytes, which old pickles write as text."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"Unsupported encoding {encoding}")
    return text.encode(encoding)


def _dtype(code: str, *_: Any) -> np.dtype:
    dtype = np.dtype(str(code))
    if dtype.char not in _NUMPY_CODES:
        raise pickle.UnpicklingError(f"Unsupported global: GLOBAL numpy.dtype.{dtype.name}")
    return dtype


def _check_order(_version: int, order: str, *more: Any) -> None:
    """The state of a plain dtype says its byte order, and nothing else that is not known."""
    if more[:3] != (None, None, None) or order not in ("|", "=", "<>"[sys.byteorder == "big"]):
        raise pickle.UnpicklingError("Unsupported numpy type")


def _array(*_: Any) -> np.ndarray:
    """An array that is still empty, as numpy's own function makes it."""
    return np.empty(0)


def _fill(array: np.ndarray, _version: int, shape: tuple, dtype: np.dtype, *rest: Any) -> None:
    """Give an array its shape and content."""
    by_columns, data = rest
    size = math.prod(shape) * dtype.itemsize
    if not isinstance(dtype, np.dtype) or type(data) is not bytes or len(data) != size:
        raise pickle.UnpicklingError("Unsupported numpy array")
    array.__setstate__((1, shape, dtype, by_columns, data))  # type: ignore[attr-defined]


def _scalar(dtype: np.dtype, data: bytes) -> Any:
    return np.frombuffer(data, dtype)[0]
