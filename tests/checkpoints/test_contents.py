"""A checkpoint is data: what no training saves is an error of one line, in both readers."""

import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from swin_dense.checkpoints import load_checkpoint, weights_of
from swin_dense.checkpoints.contents import first_not_finite
from swin_dense.errors import UserError

pytestmark = pytest.mark.usefixtures("reader")

NAN, INF = float("nan"), float("inf")
W = {"w": torch.ones(2)}


def nested(levels):
    content = W
    for _ in range(levels):
        content = {"state_dict": content}
    return content


def holds_itself(kind):
    content = {"a": dict(W), "meta": {}, "list": []}
    inside = {"wrapper": content, "list": content["list"], "meta": content["meta"]}[kind]
    if isinstance(inside, list):
        inside.append(inside)
    else:
        inside["state_dict"] = content
    return content


def meta_of(key, value):
    return {"state_dict": W, "meta": {key: value}}


BAD = {
    "wrapper in itself": (lambda: holds_itself("wrapper"), "holds itself, as state_dict"),
    "list in itself": (lambda: holds_itself("list"), r"holds itself, as list\[0\]"),
    "meta in itself": (lambda: holds_itself("meta"), "holds itself"),
    "too deep": (lambda: nested(100), "nested in 51 levels"),
    "meta is a list": (lambda: {"meta": [1], "state_dict": W}, "a list as meta"),
    "integer as a name": (lambda: {"state_dict": {3: torch.ones(1)}}, "weight named 3"),
    "integer, bare": (lambda: {3: torch.ones(1)}, "weight named 3"),
    "sparse": (lambda: {"w": torch.ones(2).to_sparse()}, r"sparse tensor, w|asks for"),
    "meta": (lambda: {"a": [torch.ones(2, device="meta")]}, r"meta tensor, a\[0\]|asks for"),
    "quantized": (
        lambda: {"w": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)},
        "quantized tensor, w|asks for",
    ),
    "larger than the file": (lambda: {"w": torch.ones(1).expand(10**12)}, "has 4 bytes for w"),
    "classes": (lambda: meta_of("dataset_meta", {"classes": 3}), "3 as meta's classes"),
    "one class": (lambda: meta_of("dataset_meta", {"classes": "cat"}), "cat as meta's classes"),
    "old classes": (lambda: meta_of("CLASSES", ["a", 3]), "a list as meta's classes"),
    "data set": (lambda: meta_of("dataset_meta", [3]), "a list as meta.dataset_meta"),
    "palette": (lambda: meta_of("dataset_meta", {"palette": [3]}), "a list as meta's palette"),
    "NaN": (lambda: {"state_dict": W | {"x.y": torch.tensor([1, NAN])}}, "finite, first x.y:"),
    "infinity": (lambda: {"model": {"h": torch.tensor([-INF]).half()}}, "finite, first h:"),
    "NaN mask": (lambda: {"attn_mask": torch.tensor([NAN])}, "finite, first attn_mask:"),
    "NaN beside averages": (
        lambda: {"state_dict": W, "ema_state_dict": {"e": torch.tensor(NAN)}},
        "finite, first e:",
    ),
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kind", BAD)
def test_what_no_training_saves_is_an_error(tmp_path, kind, legacy, recwarn):
    make, complaint = BAD[kind]
    path = tmp_path / "bad.pth"
    torch.save(make(), path, _use_new_zipfile_serialization=not legacy)
    recwarn.clear()
    with pytest.raises(UserError, match=rf"bad\.pth .*({complaint})") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert not recwarn.list


@pytest.mark.parametrize(
    "weights",
    [
        {"attn_mask": torch.tensor([0, -INF])},
        {"expanded": torch.ones(1).expand(5)},
        {"empty": torch.zeros(0), "whole": torch.tensor(3), "complex": torch.ones(2) * 1j},
        {"low": torch.ones(2, dtype=torch.bfloat16), "flag": torch.tensor(True)},
    ],
)
def test_what_trainings_save_is_read(tmp_path, weights):
    torch.save({"state_dict": weights, "shared": [weights, weights]}, tmp_path / "good.pth")
    read = load_checkpoint(tmp_path / "good.pth")["state_dict"]
    assert all(torch.equal(read[name], value) for name, value in weights.items())


def test_configs_are_left_out(tmp_path):
    """mmengine runs them: that of ``meta.config`` in resuming, the others in its inferencer."""
    text = np.str_("raise SystemExit")
    content = {
        "meta": OrderedDict(config=text, cfg="raise SystemExit", epoch=3),
        "message_hub": {"runtime_info": {"cfg": text, "iter": 2}},
    }
    torch.save(content, tmp_path / "x.pth")
    read = load_checkpoint(tmp_path / "x.pth")
    assert read == {"meta": {"epoch": 3}, "message_hub": {"runtime_info": {"iter": 2}}}


def test_attributes_that_a_file_sets_are_left_out(tmp_path):
    state = OrderedDict(W)
    state._metadata = OrderedDict({"": {"version": 2}, "a": 3, "b": {"version": "x"}})
    state.copy = 3
    torch.save({"state_dict": state}, tmp_path / "x.pth")
    read = load_checkpoint(tmp_path / "x.pth")["state_dict"]
    assert vars(read) == {"_metadata": {"": {"version": 2}}}
    assert list(read) == ["w"]


def test_damaged_history_raises_and_methods_are_not_replaced(tmp_path):
    history = HistoryBuffer([1.0, 2.0], [1, 1])
    history._statistics_methods = {"mean": HistoryBuffer.max}
    torch.save({"h": history}, tmp_path / "x.pth")
    assert load_checkpoint(tmp_path / "x.pth")["h"].statistics("mean") == 1.5
    assert HistoryBuffer([1.0, 2.0], [1, 1]).statistics("mean") == 1.5
    history._log_history = np.ones((2, 2))
    torch.save({"h": history}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="damaged history"):
        load_checkpoint(tmp_path / "x.pth")


@pytest.mark.parametrize("place", ["data/0", "data.pkl", "version"])
def test_flipped_bytes_are_found(tmp_path, place):
    path = tmp_path / "flipped.pth"
    torch.save({"w": torch.arange(1000.0)}, path)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        member = next(one for one in archive.infolist() if one.filename.endswith(place))
    end_of_name = data.find(member.filename.encode(), member.header_offset) + len(member.filename)
    extra = int.from_bytes(data[member.header_offset + 28 :][:2], "little")
    data[end_of_name + extra + member.file_size // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"flipped\.pth is (damaged|cut off)"):
        load_checkpoint(path)


def test_file_without_checksums_is_read(tmp_path):
    if not hasattr(torch.serialization, "set_crc32_options"):
        pytest.skip("this PyTorch always writes checksums")
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(W, tmp_path / "x.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(load_checkpoint(tmp_path / "x.pth")["w"], W["w"])


def test_compressed_file_raises(tmp_path):
    torch.save({"w": torch.zeros(10**6)}, tmp_path / "x.pth")
    with (
        zipfile.ZipFile(tmp_path / "x.pth") as stored,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for one in stored.namelist():
            packed.writestr(one, stored.read(one))
    with pytest.raises(UserError, match=r"bomb\.pth is "):
        load_checkpoint(tmp_path / "bomb.pth")


def test_state_dict_in_memory_that_holds_itself_raises():
    content = dict(W)
    content["model"] = {"state_dict": content}
    with pytest.raises(UserError, match="holds itself"):
        weights_of(content)


def test_numbers_that_are_not_finite():
    tensors = [("a", torch.ones(3, 2).t()), ("b", torch.tensor([1, 2])), ("c", torch.tensor(-INF))]
    assert first_not_finite(tensors[:2]) is None
    assert first_not_finite(tensors) == "c"
    assert first_not_finite([("z", torch.tensor([complex(0, NAN)]))]) == "z"
