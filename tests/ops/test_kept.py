"""Results that are kept until what they were computed from has changed."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from swin_dense.ops.kept import Kept


class Doubled:
    """Twice a parameter, and how often that was computed."""

    def __init__(self):
        self.p = nn.Parameter(torch.ones(3))
        self.kept = Kept()
        self.count = 0

    def compute(self):
        self.count += 1
        return 2 * self.p

    def get(self):
        out = self.kept.get(self.compute, [self.p])
        assert torch.equal(out, 2 * self.p)
        return out


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_computed_once_until_it_changes(mode):
    one = Doubled()
    with mode():
        assert one.get() is one.get()
        assert one.count == 1
        one.p.data.mul_(3)  # which raises no version
        one.get()
        assert one.count == 2
        one.p.add_(1)
        one.get()
        one.p = nn.Parameter(torch.zeros(3))
        one.get()
        one.kept.clear()
        one.get()
        assert one.count == 5
    # What was kept under inference mode may take part in a graph.
    one.p.requires_grad_(False)
    scale = torch.ones(3, requires_grad=True)
    (scale * one.get()).sum().backward()


def test_not_kept_where_a_gradient_is_wanted_or_operators_are_observed():
    one = Doubled()
    for _ in range(2):
        assert one.get().requires_grad
    with torch.no_grad(), Observer():
        one.get()
        one.get()
    assert one.count == 4


class Observer(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def test_copies_are_empty():
    one = Doubled()
    with torch.no_grad():
        one.get()
    for other in (copy.deepcopy(one.kept), pickle.loads(pickle.dumps(one.kept))):
        assert other.get(lambda: torch.zeros(1), [torch.ones(3)]) == 0
