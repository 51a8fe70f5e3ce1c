"""Waits of a training step, found without a GPU: what counts, where, and how many ours are."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch.nn import functional as F

from swin_dense.benchmarks.waits import Wait, WaitCounter, count_waits, wait_notes, wait_rows
from swin_dense.models.transfer import true_indices, values_like

TOOLS = Path(__file__).parents[1] / "tools"
DEVICE = torch.device("cpu:0")  # stands for the GPU


def calls(function) -> list[str]:
    """What waits in ``function``, which gets numbers, a mask and indices on the device."""
    x, mask = torch.rand(4, 3), torch.tensor([True, False, True, True])
    indices = mask.long()
    with WaitCounter() as counter:
        function(x, mask, indices)
    return [wait.call for wait, count in counter.waits.items() for _ in range(count)]


WAITING = {
    "item": (lambda x, m, i: x[0, 0].item(), "_local_scalar_dense"),
    "if": (lambda x, m, i: bool(m.any()), "_local_scalar_dense"),
    "nonzero": (lambda x, m, i: m.nonzero(), "nonzero"),
    "mask": (lambda x, m, i: x[m], "index"),
    "set by mask": (lambda x, m, i: x.__setitem__(m, x[:3] + 1), "index_put_"),
    "where": (lambda x, m, i: torch.where(m), "nonzero"),
    "unique": (lambda x, m, i: i.unique(), "_unique2"),
    "bincount": (lambda x, m, i: i.bincount(), "bincount"),
    "repeat": (lambda x, m, i: x.repeat_interleave(i, 0), "repeat_interleave"),
    "classes": (lambda x, m, i: F.one_hot(i), "_local_scalar_dense"),
    "tolist": (lambda x, m, i: x.tolist(), "copy to the host"),
    "cpu": (lambda x, m, i: x.cpu(), "copy to the host"),
    "numpy": (lambda x, m, i: x.numpy(), "copy to the host"),
    "to": (lambda x, m, i: x.to("cpu"), "copy to the host"),
    "new_tensor": (lambda x, m, i: x.new_tensor([1.0]), "copy to the device"),
    "tensor": (lambda x, m, i: torch.tensor([1.0], device=x.device), "copy to the device"),
    "tensor's number": (
        lambda x, m, i: torch.tensor(1.0, device=x.device).item(),
        "copy to the device",
    ),
    "to device": (lambda x, m, i: torch.arange(3).to(x.device), "copy to the device"),
    "to type": (lambda x, m, i: torch.arange(3).to(x), "copy to the device"),
    "list": (lambda x, m, i: x[:, [1, 0]], "index copied to the device"),
    "host index": (lambda x, m, i: x[torch.arange(2)], "index copied to the device"),
    "copy_": (lambda x, m, i: x.copy_(torch.ones(4, 3)), "copy between host and device"),
}


@pytest.mark.parametrize("name", WAITING)
def test_what_waits(name):
    function, call = WAITING[name]
    found = calls(function)
    assert found[:1] == [call]
    assert len(found) == 1 + (name in ("tensor's number", "classes"))


NOT_WAITING = {
    "select": lambda x, m, i: x[1:, None, 0],
    "index": lambda x, m, i: x[i],
    "fill": lambda x, m, i: x.__setitem__(m, 1.0),
    "masked_fill": lambda x, m, i: x.masked_fill(m[:, None], 0.0),
    "where": lambda x, m, i: torch.where(m[:, None], x, 0.0),
    "clamp": lambda x, m, i: x.clamp(min=0).sort().values.cumsum(0).argmax(),
    "known size": lambda x, m, i: torch.nonzero_static(m, size=3),
    "known length": lambda x, m, i: x.repeat_interleave(i, 0, output_size=3),
    "known classes": lambda x, m, i: F.one_hot(i, 5),
    "made there": lambda x, m, i: torch.zeros(3, device=x.device) + x.new_ones(3),
    "asynchronous": lambda x, m, i: torch.arange(3).to(x.device, non_blocking=True),
    "host": lambda x, m, i: [
        torch.arange(3).tolist(),
        torch.ones(3)[torch.ones(3) > 0].sum().item(),
    ],
    "old constructor": lambda x, m, i: torch.Tensor([[1, 2], [3, 4]]).max().item(),
    "host's new_tensor": lambda x, m, i: torch.ones(3).new_tensor([1, 2]).tolist(),
    "values_like": lambda x, m, i: values_like(x, [1.0, 2.0]) + x[0, :2],
}


@pytest.mark.parametrize("name", NOT_WAITING)
def test_what_does_not_wait(name):
    assert calls(NOT_WAITING[name]) == []


def test_copies_belong_to_the_side_they_went_to():
    def there_and_back(x, m, i):
        host = x.cpu()
        assert host.device != x.device
        (host + 1).tolist()  # of the host's
        (host.to(x.device) + x).tolist()

    found = sorted(calls(there_and_back))
    assert found == ["copy to the device", "copy to the host", "copy to the host"]


def test_a_gradient_is_counted_where_forward_was_called():
    x, mask = torch.rand(4, 3, requires_grad=True), torch.ones(4, dtype=torch.bool)
    with WaitCounter() as counter:
        loss = x[mask].sum()
        loss.backward()
    lines = {wait.line for wait in counter.waits}
    assert sorted(wait.call for wait in counter.waits) == ["index", "index_put"]
    assert len(lines) == 1
    assert {wait.file for wait in counter.waits} == {Path(__file__).name}


def test_true_indices_wait_once():
    masks = [torch.rand(5, 7) > 0.5, torch.zeros(3, dtype=torch.bool), torch.ones(2) > 0]
    assert calls(lambda *_: true_indices(masks)) == ["copy to the host"]
    for found, mask in zip(true_indices(masks), masks, strict=True):
        assert torch.equal(found, mask.flatten().nonzero()[:, 0])


def test_values_like_is_new_tensor():
    for x in (torch.rand(3), torch.rand(3).double(), torch.arange(3)):
        for values in ((0.1, 2.7), [3, 4], (1 / 3,)):
            ours, expected = values_like(x, values), x.new_tensor(values)
            assert ours.dtype == expected.dtype
            assert torch.equal(ours, expected)


# What is left in this package. NMS tells how many boxes it keeps; the head of RepPointsV2 has to
# know how many points are positive, and how many are in the foreground.
KNOWN = {
    "tiny_detector": {("swin_dense/compat/ops/boxes.py", "nms"): 2},  # of each image
    "tiny_segmentor": {},
    "tiny_mask_reppoints": {("swin_dense/models/transfer.py", "copy to the host"): 2},
}


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.filterwarnings("ignore")
def test_waits_of_our_code_in_a_training_step(name):
    waits = count_waits(Config.fromfile(TOOLS / f"{name}.py"), (64, 64), 2)
    ours = {(w.file, w.call): n for w, n in waits.items() if w.package == "swin_dense"}
    assert ours == KNOWN[name]
    theirs = {wait.package for wait in waits} - {"swin_dense"}
    assert theirs <= {"mmdet", "mmseg", "mmcv", "mmengine"}
    assert theirs, "they wait too: otherwise nothing was counted"


def test_record():
    lines = [["swin_dense/a.py", 3, "nms", 2], ["mmdet/b.py", 4, "nonzero", 5]]
    one = {"name": "some_config", "waits": {"swin_dense": 2, "mmdet": 5}, "lines": lines}
    headings, row = wait_rows({"models": [one]})
    assert dict(zip(headings, row, strict=True))["all"] == "7"
    assert dict(zip(headings, row, strict=True))["mmdet"] == "5"
    assert "In swin_dense: a.py:3 (nms) in some_config." in wait_notes({"models": [one]})


def test_packages():
    assert Wait("mmdet/models/x.py", 1, "index").package == "mmdet"
