"""Our reader of ``torch.save``'s files: equal to PyTorch's, and nothing in a file runs."""

import io
import os
import pickle
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from swin_dense.checkpoints.pickles import read_pickled

DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool, torch.uint8),
    *(torch.int8, torch.int16, torch.int32, torch.int64, torch.complex64),
)


def read(content: bytes, device: str = "cpu") -> Any:
    return read_pickled(io.BytesIO(content), torch.device(device), {})


def saved(content: Any, legacy: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def archive(pickled: bytes, **records: bytes) -> bytes:
    """A file as torch.save writes it, around any pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        written.writestr("archive/data.pkl", pickled)
        for key, data in records.items():
            written.writestr(f"archive/data/{key}", data)
    return file.getvalue()


@pytest.mark.parametrize("legacy", [False, True])
def test_reads_what_pytorch_reads(legacy: bool) -> None:
    state = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).state_dict()
    base = torch.arange(24.0)
    content = {
        "state_dict": state,
        "dtypes": {str(dtype): torch.ones(3, 2).to(dtype) for dtype in DTYPES},
        "views": [base[4:12].view(2, 4).t(), base[::3], base],
        "none": [torch.empty(0), torch.empty(0, 4), torch.tensor(2.5)],
        "parameter": nn.Parameter(torch.ones(2)),
        "plain": [1, -2.5, 2**70, "text", b"bytes", None, True, (1, 2), {"a": {3}}, 1j],
        "types": [torch.float16, torch.Size([1, 2])],
        "numpy": [np.arange(6, dtype=np.int16).reshape(2, 3).T, np.float32(1.5), np.str_("ab")],
    }
    found = read(saved(content, legacy))
    assert list(found) == list(content)
    assert type(found["state_dict"]) is OrderedDict
    assert found["state_dict"]._metadata == state._metadata
    for part in ("state_dict", "dtypes"):
        for name, tensor in content[part].items():
            assert found[part][name].dtype == tensor.dtype
            assert found[part][name].equal(tensor)
    for part in ("views", "none"):
        for tensor, expected in zip(found[part], content[part], strict=True):
            assert tensor.equal(expected)
            assert tensor.stride() == expected.stride()
    found["views"][2].zero_()
    assert not found["views"][0].any()  # one storage, as before
    assert isinstance(found["parameter"], nn.Parameter)
    assert found["parameter"].requires_grad
    assert found["plain"] == content["plain"]
    assert found["types"] == content["types"]
    for value, expected in zip(found["numpy"], content["numpy"], strict=True):
        assert np.array_equal(value, expected)
        assert type(value) is type(expected)


@pytest.mark.parametrize("legacy", [False, True])
def test_numbers_are_not_read_on_the_meta_device(legacy: bool) -> None:
    found = read(saved({"w": torch.ones(2, 3), "n": 1}, legacy), "meta")
    assert found["w"].is_meta
    assert found["w"].shape == (2, 3)
    assert found["n"] == 1


class Reduced:
    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __reduce__(self) -> Any:
        return self.parts


# Each asks for something that is not plain data.
ATTACKS = {
    "function": pickle.dumps(Reduced(os.system, ("true",))),
    "method of an allowed type": pickle.dumps(Reduced(OrderedDict.fromkeys, ([1],)), protocol=4),
    "state of a type": b"ccollections\nOrderedDict\n}X\x04\x00\x00\x00keysK\x01sb.",
    "call of an object": pickle.dumps(Reduced(OrderedDict, ()))[:-1] + b")R.",
    "array of objects": pickle.dumps(np.array([{}, None], dtype=object)),
    "type of objects": pickle.dumps(np.dtype("O")),
    "structured type": pickle.dumps(np.dtype([("a", "O")])),
    "constructor of arrays": b"cnumpy\nndarray\n(K\x02tR.",
    "persistent object": b"Pmodule\n.",
    "instance": b"(ios\nsystem\n.",
    "extension": b"\x82\x01.",
}


@pytest.mark.parametrize("name", ATTACKS)
def test_nothing_but_plain_data(name: str) -> None:
    with pytest.raises((pickle.UnpicklingError, KeyError)):
        read(archive(ATTACKS[name]))


@pytest.mark.parametrize(
    "items", [b"K\x01K\x02s", b"(K\x01K\x02u", b"K\x01a", b"(K\x01e", b"(K\x01\x90"]
)
def test_only_containers_take_items(items: bytes) -> None:
    with pytest.raises(pickle.UnpicklingError, match="Unsupported items of tuple"):
        read(archive(b")" + items + b"."))


def test_tensors_stay_inside_their_storage() -> None:
    content = saved({"w": torch.arange(4.0)})
    with zipfile.ZipFile(io.BytesIO(content)) as zipped:
        name = next(one for one in zipped.namelist() if one.endswith("/data.pkl"))
        pickled, data = zipped.read(name), zipped.read(name.replace("data.pkl", "data/0"))
    assert read(archive(pickled, **{"0": data}))["w"].tolist() == [0, 1, 2, 3]
    with pytest.raises(pickle.UnpicklingError, match="cut off"):
        read(archive(pickled, **{"0": data[:8]}))
    larger = pickled.replace(b"K\x04\x85", b"K\x08\x85")  # the tensor, not its storage
    assert larger != pickled
    with pytest.raises(RuntimeError, match="out of bounds"):
        read(archive(larger, **{"0": data}))


class Scripted(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1


def test_torchscript_and_tar_files_are_refused(tmp_path: Path) -> None:
    """PyTorch before 2.6 runs the one and extracts the other, whatever it was asked for."""
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(Scripted()), file)
    with pytest.raises(pickle.UnpicklingError, match="GLOBAL __torch__"):
        read(file.getvalue())
    path = tmp_path / "old.pth"
    with tarfile.open(path, "w") as tar:
        for name in ("storages", "tensors", "pickle"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(Exception):  # noqa: B017, PT011  (whatever its bytes are as a pickle)
        read(path.read_bytes())
    assert [one.name for one in tmp_path.iterdir()] == ["old.pth"]  # nothing was extracted
