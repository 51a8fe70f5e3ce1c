"""Inputs, outputs and gradients for comparing backends of attention.

A case is ``(B, H, W, heads, head_dim, M, shift)``.
"""

import torch
from torch import Tensor

from swin_dense.ops.window_attention import shifted_window_attention
from swin_dense.ops.window_attention.windows import WindowSpec


def attention(qkv, qkv_bias, position_bias, spec, **kwargs):
    """The public function with the signature of the backends."""
    return shifted_window_attention(qkv, qkv_bias, position_bias, **spec._asdict(), **kwargs)


def make_inputs(case, dtype=torch.float64) -> list[Tensor]:
    """qkv, its bias and the position bias, with the same values in every precision."""
    b, h, w, heads, d, m, _ = case
    g = torch.Generator().manual_seed(3)
    shapes = (b, h, w, 3 * heads * d), (3 * heads * d,), (heads, m * m, m * m)
    return [
        torch.randn(shape, generator=g, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in shapes
    ]


def run(function, inputs, case, **kwargs) -> list[Tensor]:
    """Output, and gradients of a loss that weights every output differently."""
    *_, heads, _d, m, shift = case
    out = function(*inputs, WindowSpec(heads, m, shift, 0.4), **kwargs)
    # Small integers: exact in every precision.
    weight = torch.randint(-2, 3, out.shape, generator=torch.Generator().manual_seed(5)).to(out)
    given = [x for x in inputs if x is not None]
    # The bias of qkv has a gradient only where there is padding.
    grads = torch.autograd.grad((out * weight).sum(), given, materialize_grads=True)
    return [out, *grads]


def assert_error_at_most_twice(ours, plain, exact, dtype) -> None:
    """At most twice plain PyTorch's error against float64, or one rounding of the largest value."""
    for a, b, c in zip(ours, plain, exact, strict=True):
        assert a.dtype == b.dtype
        floor = torch.finfo(dtype).eps * c.abs().max()
        assert (a.double() - c).abs().max() <= max(2 * (b.double() - c).abs().max(), floor)
