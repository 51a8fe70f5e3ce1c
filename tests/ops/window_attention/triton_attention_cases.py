"""Cases for the attention kernels, both in Triton's interpreter and on a GPU."""

from typing import NamedTuple

import torch

from swin_dense.ops.window_attention import shifted_window_attention

NAMES = ("out", "qkv", "qkv_bias", "position_bias")


class Case(NamedTuple):
    """A call; sizes in tokens."""

    batch: int
    height: int
    width: int
    heads: int
    window: int
    shift: int
    qkv_bias: bool = True
    position_bias: bool = True
    scale: float = 32**-0.5
    head_dim: int = 32


CASES = [
    Case(1, 14, 7, 2, 7, 0),  # whole windows
    Case(1, 14, 7, 1, 7, 3),  # whole windows, shifted
    Case(2, 9, 5, 1, 7, 0),  # padded
    Case(2, 9, 8, 2, 7, 3),  # padded, shifted
    Case(1, 1, 1, 1, 7, 3),  # smaller than a window
    Case(2, 15, 23, 1, 7, 3),  # inner windows, and two last columns with padding
    Case(1, 31, 29, 1, 12, 6),
    Case(1, 9, 8, 1, 7, 3, qkv_bias=False),
    Case(1, 9, 8, 1, 7, 3, position_bias=False),
    Case(1, 9, 8, 1, 7, 3, scale=0.0),  # "rel. pos. w/o app." of table 4
    Case(1, 9, 8, 2, 7, 3, head_dim=16),
    Case(1, 9, 8, 2, 7, 3, head_dim=64),
    Case(1, 13, 11, 2, 9, 4, head_dim=16),
    Case(1, 13, 11, 1, 12, 6, head_dim=64),
    Case(1, 3, 7, 2, 5, 2),
    Case(1, 5, 10, 1, 5, 0),
    Case(1, 8, 9, 1, 8, 4),
    Case(1, 12, 12, 1, 12, 6),
    Case(1, 4, 13, 1, 12, 0),
    Case(1, 11, 5, 1, 12, 6, qkv_bias=False, position_bias=False),
    Case(1, 9, 8, 1, 9, 4),
    Case(1, 13, 7, 1, 13, 6),
    Case(1, 16, 15, 1, 16, 8),
]


def make_inputs(
    case: Case, dtype: torch.dtype, bias_dtype: torch.dtype, device: str = "cpu"
) -> list[torch.Tensor | None]:
    """qkv, its bias and the position bias, the latter two None where the case says so."""
    channels, tokens = 3 * case.head_dim * case.heads, case.window**2
    g = torch.Generator().manual_seed(3)
    tensors = [
        torch.randn(case.batch, case.height, case.width, channels, generator=g).to(dtype),
        torch.randn(channels, generator=g).to(bias_dtype) if case.qkv_bias else None,
        torch.randn(case.heads, tokens, tokens, generator=g).to(bias_dtype)
        if case.position_bias
        else None,
    ]
    return [None if t is None else t.to(device).requires_grad_() for t in tensors]


def run(
    impl: str, case: Case, inputs: list[torch.Tensor | None], function=shifted_window_attention
) -> dict[str, torch.Tensor]:
    """Output, and gradients of a loss that weights every output differently."""
    out = function(
        *inputs,
        num_heads=case.heads,
        window_size=case.window,
        shift_size=case.shift,
        scale=case.scale,
        impl=impl,
    )
    # Small integers: exact in every precision.
    weight = torch.randint(-2, 3, out.shape, generator=torch.Generator().manual_seed(5)).to(out)
    given = [x for x in inputs if x is not None]
    grads = iter(torch.autograd.grad((out * weight).sum(), given, allow_unused=True))
    results = {"out": out.detach()}
    for name, x in zip(NAMES[1:], inputs, strict=True):
        if x is not None:
            grad = next(grads)
            results[name] = torch.zeros_like(x) if grad is None else grad
    return results


def assert_as_exact_as_plain_pytorch(
    case: Case,
    dtype: torch.dtype,
    bias_dtype: torch.dtype,
    device: str = "cpu",
    function=shifted_window_attention,
) -> None:
    """Errors against float64 are at most twice those of plain PyTorch in the same precision."""
    inputs = make_inputs(case, dtype, bias_dtype, device)
    exact = run(
        "reference",
        case,
        [None if x is None else x.detach().double().requires_grad_() for x in inputs],
        function,
    )
    plain = run("reference", case, inputs, function)
    ours = run("triton", case, inputs, function)
    assert ours.keys() == exact.keys()
    for name, expected in exact.items():
        assert ours[name].dtype == plain[name].dtype, name
        assert ours[name].shape == expected.shape, name
        error = (ours[name].double() - expected).abs().max()
        allowed = 2 * (plain[name].double() - expected).abs().max()
        # Where plain PyTorch is exact by chance, one rounding of the result is allowed.
        rounding = torch.finfo(plain[name].dtype).eps * expected.abs().max()
        assert error <= allowed + rounding, f"{name}: {error:.2g}, allowed {allowed:.2g}"
