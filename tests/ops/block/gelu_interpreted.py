"""The approximation of GELU in 16-bit kernels, in Triton's interpreter, against erf in float64.

Run by ``test_triton_block.py`` in a process of its own, see ``triton_block_interpreted.py``.
"""

import pytest
import torch
import triton
import triton.language as tl

from swin_dense.ops.block.triton.gelu_kernels import gelu_derivative, gelu_of, normal_cdf


@triton.jit
def _evaluate(h, forward, value, derivative, dtype: tl.constexpr, SIZE: tl.constexpr):
    """All in fp32, as kernels have them before they round."""
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    numbers = tl.load(h + at)
    cdf = normal_cdf(numbers, dtype)
    tl.store(forward + at, gelu_of(numbers, dtype))
    tl.store(value + at, numbers * cdf)
    tl.store(derivative + at, gelu_derivative(numbers, cdf))


def evaluate(h, dtype):
    """Value in forward, in backward, and derivative at fp32 numbers ``h``, a multiple of 2^14."""
    results = [torch.empty_like(h) for _ in range(3)]
    size = 2**14
    _evaluate[(len(h) // size,)](h, *results, dtype, size)
    return results


def errors(h, dtype):
    """Largest errors of both values and of the derivative at fp32 numbers ``h``."""
    exact = h.double().requires_grad_()
    out = torch.nn.functional.gelu(exact)
    expected = (out, out, *torch.autograd.grad(out.sum(), exact))
    return [(a - b).abs().max() for a, b in zip(evaluate(h, dtype), expected, strict=True)]


@pytest.mark.parametrize("dtype", [tl.float16, tl.bfloat16])
def test_error_in_16_bits(dtype):
    """A fifth of what rounding a number below 1 to fp16 costs, 2.4e-4 at most."""
    forward, backward, derivative = errors(torch.linspace(-8, 8, 2**20), dtype)
    assert forward < 4.65e-5
    assert backward < 4.4e-5
    assert derivative < 2.95e-5


@pytest.mark.parametrize("dtype", [tl.float16, tl.bfloat16])
@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_0_and_the_identity_far_from_the_origin(dtype):
    far = torch.logspace(0.8, 18, 2**14)
    for h, slope in ((far, 1.0), (-far, 0.0)):
        forward, value, derivative = evaluate(h, dtype)
        assert torch.equal(forward, slope * h)
        assert torch.equal(value, slope * h)
        assert (derivative - slope).abs().max() < 1e-7


def test_error_in_fp32():
    assert max(errors(torch.linspace(-8, 8, 2**18), tl.float32)) < 1e-6
