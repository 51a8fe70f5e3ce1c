"""Checkpoint files: cache of downloads, reading without running code from them, wrappers."""

import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from hashlib import sha256
from os import PathLike
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlparse

import safetensors.torch
import torch
from torch import Tensor

from swin_dense.checkpoints.contents import BadContentError, as_plain, check_state
from swin_dense.checkpoints.downloads import OnProgress, download
from swin_dense.checkpoints.pickles import numpy_types, read_pickled
from swin_dense.errors import UserError
from swin_dense.ops.torch_versions import VERSION

# Whether PyTorch itself reads files without running code from them: see `pickles`.
SAFE_PYTORCH = VERSION >= (2, 10)
# What files may hold besides weights and plain data: types and functions by their names in files.
ALLOWED: dict[str, Any] = {}

# Where every file has a name of its own.
_UNIQUE_NAMES = (
    "https://github.com/SwinTransformer/",
    "https://download.openmmlab.com/",
    "https://download.pytorch.org/",
    "https://dl.fbaipublicfiles.com/",
)

# Entries of files that hold weights. Averages over training come first: their authors evaluate
# them. mmengine stores the averages as state_dict and the trained weights as ema_state_dict, so
# the latter counts only where it is alone.
_WRAPPERS = (
    *("state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict"),
    *("module", "net", "ema_state_dict", "teacher", "student"),
)


def cached_path(url: str) -> Path:
    """The cache file of a download.

    Files of :data:`_UNIQUE_NAMES` have the name that PyTorch and mmengine give them. Elsewhere many
    models may be called ``model.safetensors``: the name has a part of the URL's SHA-256 too.
    """
    name = Path(urlparse(url).path)
    key = "" if url.startswith(_UNIQUE_NAMES) else f"-{sha256(url.encode()).hexdigest()[:8]}"
    return Path(torch.hub.get_dir()) / "checkpoints" / f"{name.stem}{key}{name.suffix}"


def local_file(
    location: str,
    otherwise: str = "",
    folder: str | None = None,
    on_progress: OnProgress = lambda done, total: None,
) -> Path:
    """The local path of a file, downloaded first if it is a URL that is not in the cache.

    Args:
        location: a path, or an http(s) URL.
        otherwise: what else the user can do, for the error message.
        folder: where downloads are kept, by default PyTorch's cache.
        on_progress: of :func:`~.downloads.download`.

    Raises:
        UserError: there is no such file, or it cannot be downloaded; names where to put it.
    """
    if not location.startswith(("http://", "https://")):
        path = Path(location).expanduser()
        if not path.is_file():
            raise UserError(f"weights {location} are missing: put the file there{otherwise}")
        return path
    path = cached_path(location) if folder is None else Path(folder, cached_path(location).name)
    if not path.is_file():
        try:
            download(location, path, on_progress=on_progress)
        except OSError as error:
            raise UserError(
                f"cannot download weights ({error}): download {location} elsewhere and put it at "
                f"{path}{otherwise}"
            ) from error
    return path


def load_checkpoint(
    file: str | PathLike[str] | IO[bytes], map_location: str | torch.device = "cpu"
) -> dict[str, Any]:
    """Read a ``.pth`` or ``.safetensors`` file without running code from it.

    Configs in it are left out: OpenMMLab runs them. Where the file has checksums, as those of
    PyTorch since 1.6, they are compared; docs/security.md has all that is checked.

    Args:
        file: a path, or an open binary file.
        map_location: where the tensors go; on the meta device, numbers are not checked.

    Raises:
        UserError: there is no such file; it is empty, cut off, damaged or not a checkpoint; it
            asks for types outside the allow-list; it holds something other than a dict, weights
            that are not finite, or what no checkpoint holds; the device is unknown.
    """
    name = str(file) if isinstance(file, (str, PathLike)) else getattr(file, "name", "checkpoint")
    try:
        device = torch.device(map_location)
    except RuntimeError:
        raise UserError(f"unknown device '{map_location}': give cpu, cuda or cuda:N") from None
    try:
        if isinstance(file, (str, PathLike)):
            with Path(file).expanduser().open("rb") as opened:
                return _read(opened, name, device)
        return _read(file, name, device)
    except FileNotFoundError:
        raise UserError(f"no such checkpoint: {name}") from None
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot read the checkpoint {name}: {reason}; give a .pth file") from None


def _read(file: IO[bytes], name: str, device: torch.device) -> dict[str, Any]:
    start = file.tell()
    head = file.read(64)
    file.seek(start)
    if not head:
        raise UserError(f"{name} is empty: download or copy it again")
    is_safetensors = head[8:9] == b"{"  # after the length of the header
    try:
        read = _read_safetensors if is_safetensors else _unpickle
        content = read(file, device)
    except Exception as error:  # torch.load raises almost anything for arbitrary bytes
        raise UserError(f"{name} {_complaint(error, head)}") from error
    if not isinstance(content, dict):
        raise UserError(
            f"{name} holds a {type(content).__name__}, not a dict of weights: "
            "save the model's state_dict() and give that"
        )
    try:
        content = as_plain(content, on_meta=device.type == "meta")
        check_weights(content)
    except BadContentError as error:
        raise UserError(f"{name} {error}") from error
    return content


def _read_safetensors(file: IO[bytes], device: torch.device) -> dict[str, Tensor]:
    return {key: one.to(device) for key, one in safetensors.torch.load(file.read()).items()}


def _unpickle(file: IO[bytes], device: torch.device) -> Any:
    start = file.tell()
    if file.read(4) == b"PK\x03\x04":
        _check_zip(file)
    file.seek(start)
    if not SAFE_PYTORCH:
        return read_pickled(file, device, ALLOWED)
    allow_in_torch()  # each time, as others may take them off the list
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of kinds of tensors that are refused below
        return torch.load(file, map_location=device, weights_only=True)


def _check_zip(file: IO[bytes]) -> None:
    """Compare the checksums of a zip file, which PyTorch does not.

    Raises:
        zipfile.BadZipFile: one is wrong, or the members are larger than the file.
    """
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if sum(one.file_size for one in members) > file.seek(0, 2):
            raise zipfile.BadZipFile("Compressed, as torch.save does not")
        has_checksums = any(one.CRC for one in members)  # PyTorch can be told to leave them out
        if has_checksums and (bad := archive.testzip()):
            raise zipfile.BadZipFile(f"Bad CRC-32 for file {bad!r}")


def allow_in_torch() -> None:
    """Let ``torch.load(weights_only=True)`` itself read what :func:`load_checkpoint` does."""
    if VERSION >= (2, 6):  # earlier, functions with other names would break every torch.load
        own = [(one, name) for name, one in ALLOWED.items()]
        torch.serialization.add_safe_globals([*own, *numpy_types()])


def load_without_weights(file: str | PathLike[str]) -> dict[str, Any]:
    """Read a file as :func:`load_checkpoint` does, but not the numbers in its tensors.

    Raises:
        Exception: almost any, if the file is not a checkpoint.
    """
    if not SAFE_PYTORCH:
        return load_checkpoint(file, "meta")
    return torch.load(file, map_location="cpu", weights_only=True, mmap=True)


def _complaint(error: Exception, head: bytes) -> str:
    """What is wrong with the file and the fix, from the error in reading it and its first bytes."""
    message = str(error)
    if isinstance(error, safetensors.SafetensorError):
        return "is cut off or is not a safetensors file: download or copy it again"
    if head.lstrip().startswith(b"<"):
        return "is a web page, not a checkpoint: download the file itself"
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not a checkpoint: run git lfs pull"
    if found := re.search(r"Bad CRC-32 for file '(.*)'", message):
        return f"is damaged, its part {found[1]} has another checksum: download or copy it again"
    if "deserialize object on" in message:
        return "cannot be loaded to that device, which is not available: give cpu"
    if forbidden := re.search(r"GLOBAL (getattr|[\w.]*\w)", message):
        return (
            f"asks for {forbidden[1]}, which a checkpoint of weights does not need: it may be "
            "malicious and was not read; ask its author for the state_dict() alone"
        )
    return "is cut off or is not a PyTorch checkpoint: download or copy it again"


def weights_of(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a checkpoint, out of all wrapping entries.

    Raises:
        UserError: the checkpoint wraps itself.
    """
    wrappers = {id(checkpoint)}
    while inner := _wrapped(checkpoint):
        checkpoint = inner[0]
        if id(checkpoint) in wrappers:
            raise UserError("the state dict holds itself: give the weights alone")
        wrappers.add(id(checkpoint))
    state = OrderedDict((k, v) for k, v in checkpoint.items() if isinstance(v, Tensor))
    if hasattr(checkpoint, "_metadata"):  # torch's notes on the versions of modules
        state._metadata = checkpoint._metadata  # type: ignore[attr-defined]
    return state


def check_weights(checkpoint: Mapping[str, Any]) -> None:
    """Require finite weights with names, of all that different readers may take.

    Raises:
        BadContentError: names the first weight for which this does not hold.
    """
    for state in _wrapped(checkpoint) or [checkpoint]:
        check_state(weights_of(state))


def _wrapped(checkpoint: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What the entries of a checkpoint that may hold weights hold, the preferred one first."""
    entries = [checkpoint.get(name) for name in _WRAPPERS]
    return [entry for entry in entries if isinstance(entry, Mapping) and entry]


def strip_prefixes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove ``module.``; if there are names below ``backbone.``, keep these alone, without it."""
    bare = {key.removeprefix("module."): value for key, value in state.items()}
    below = [key for key in bare if key.startswith("backbone.")]
    return {key.removeprefix("backbone."): bare[key] for key in below} or bare
