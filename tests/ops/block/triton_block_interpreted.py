"""The block's Triton kernels in Triton's interpreter, on the CPU.

Run by ``test_triton_block.py`` in a separate process: Triton decides at import whether it
compiles or interprets. By hand: ``TRITON_INTERPRET=1 pytest`` and this file.

Not in bf16, whose matrix products are wrong in the interpreter.
"""

import pytest
import torch
from block_cases import (
    FUNCTIONS,
    NORMS,
    Case,
    assert_as_exact_as_plain_pytorch,
    make_inputs,
    norm_of,
)

from swin_dense.ops.block import Linear
from swin_dense.ops.block.triton import launch as triton_block
from swin_dense.ops.block.triton.support import MOST_SUMMED

FP32, FP16 = torch.float32, torch.float16
LINEAR = ("linear", "linear_backward", "gelu_linear_backward")
PRODUCTS = ("mlp", "mlp_backward", *LINEAR)


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize(
    "case",
    [
        Case(2, 35, 96, True, FP32, FP32),
        Case(4, 9, 64, True, FP32, FP16),
        Case(1, 33, 96, False, FP16, FP16),
        Case(1, 1, 1, False, FP32, FP32),
        Case(3, 2, 1536, True, FP16, FP16),
        Case(2, 1, 4096, True, FP32, FP16),
    ],
    ids=str,
)
def test_norms_are_as_accurate_as_plain_pytorch(name, case):
    assert_as_exact_as_plain_pytorch(name, case)


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize(
    "case",
    [
        Case(2, 35, 96, True, FP32, FP32, 384),
        Case(4, 9, 64, True, FP32, FP16, 96),
        Case(1, 33, 96, False, FP16, FP16, 64),
        Case(1, 1, 32, False, FP32, FP32, 32),
    ],
    ids=str,
)
def test_products_are_as_accurate_as_plain_pytorch(name, case):
    assert_as_exact_as_plain_pytorch(name, case)


@pytest.mark.parametrize("channels", [32, 128, 160, 256])
def test_every_product_width(channels):
    for name in PRODUCTS:
        assert_as_exact_as_plain_pytorch(name, Case(2, 3, channels, True, FP32, FP16, 32))


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("channels", [384, 512, 768])
def test_every_wide_linear_width(name, channels):
    if name != "linear_backward" or channels <= MOST_SUMMED:
        assert_as_exact_as_plain_pytorch(name, Case(2, 3, channels, True, FP16, FP16, 64))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_deterministic(name):
    case = Case(2, 35, 96, True, FP32, FP16)
    _, ours = FUNCTIONS[name]
    first, second = (ours(make_inputs(case), case.dtype) for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("programs", [1, 3])
@pytest.mark.parametrize("name", ["layer_norm_backward", "gelu"])
def test_any_number_of_programs(monkeypatch, name, programs):
    monkeypatch.setattr(triton_block, "_WARPS_PER_SM", 4 * programs)
    assert_as_exact_as_plain_pytorch(name, Case(2, 35, 96, True, FP32, FP32))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_strided_and_empty_inputs(name):
    case = Case(2, 9, 96, True, FP32, FP32)
    inputs = make_inputs(case)
    _, ours = FUNCTIONS[name]
    expected = ours(inputs, case.dtype)
    strided = {k: v.T.contiguous().T if v.dim() == 2 else v for k, v in inputs.items()}
    for key, found in ours(strided, case.dtype).items():
        assert torch.equal(found, expected[key]), key
    for key, found in ours(make_inputs(case._replace(tokens=0)), case.dtype).items():
        # Sums over no rows are 0; the other outputs have no rows.
        assert len(found) == 0 or not found.any(), key


def test_branch_gradients_are_not_copied():
    case = Case(1, 9, 96, False, FP16, FP16)
    t = make_inputs(case)
    dx, *_, d_branch, _ = triton_block.layer_norm_backward(
        t["d_low"], t["x"], norm_of(t), t["d"], None, FP16
    )
    assert d_branch is dx
    fc1, fc2 = Linear(t["w1"], t["b1"]), Linear(t["w2"], None)
    found = triton_block.mlp_backward(t["x"], t["d"], (None, None), norm_of(t), fc1, fc2)
    assert found.d2 is t["d"]
    assert found.d_branch is found.dm
    assert triton_block.branch_gradient(t["d"], None, FP16)[0] is t["d"]


def test_unsupported_arguments_raise():
    t = make_inputs(Case(1, 2, 96, False, FP32, FP32))
    norm, fc1, fc2 = norm_of(t), Linear(t["w1"], t["b1"]), Linear(t["w2"], t["b2"])
    with pytest.raises(ValueError, match=r"layer_norm in Triton needs .* got float64"):
        triton_block.layer_norm(t["x"].double(), norm, FP32)
    wide = torch.zeros(2, 384)
    with pytest.raises(ValueError, match=r"mlp in Triton needs a number of channels .* got 384"):
        triton_block.mlp(wide, None, norm, fc1, fc2)
    with pytest.raises(ValueError, match=r"norm_linear in Triton needs a number .* got 384"):
        triton_block.norm_linear(wide, norm, fc1)  # wide ones are for 16 bits
    with pytest.raises(ValueError, match=r"needs rows of channels, .* got a shape of \(1, 2, 96\)"):
        triton_block.add(t["x"][None], t["y"], None)
    with pytest.raises(ValueError, match="2 rows are not of 3 images"):
        triton_block.add(t["x"], t["y"], torch.ones(3))
    with pytest.raises(ValueError, match=r"needs torch.float16 as its weight, got torch.float32"):
        triton_block.linear_residual(t["y"], Linear(t["w1"].half(), None), t["x"], None)
