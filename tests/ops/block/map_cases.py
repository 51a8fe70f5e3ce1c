"""Cases for norms that move what they read, both in Triton's interpreter and on a GPU.

Compared with plain PyTorch and its autograd. Importing this module does not import Triton.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from swin_dense.ops.block import Norm, neighbours

EPS = 1e-5
KINDS = ("output", "channels last", "embedding", "merged", "merged, residual")


class MapCase(NamedTuple):
    """What is computed, of a map of which size, in which precisions of input and result."""

    kind: str
    shape: tuple[int, int, int, int]
    stream: torch.dtype
    dtype: torch.dtype

    def __str__(self) -> str:
        """The test's identifier."""
        kinds = "-".join(str(d).removeprefix("torch.") for d in (self.stream, self.dtype))
        return f"{self.kind}-{'x'.join(map(str, self.shape))}-{kinds}"


def make_inputs(case: MapCase, device: str = "cpu") -> list[Tensor]:
    """Map, weight and bias of the norm, gradients of the result and of the map by another path."""
    g = torch.Generator().manual_seed(3)
    b, h, w, c = case.shape

    def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(*shape, generator=g).to(device, dtype)

    x = 1 + normal(b, h, w, c)
    channels = 4 * c if "merged" in case.kind else c
    out = {"output": (b, c, h, w), "channels last": (b, c, h, w), "embedding": (b, h, w, c)}
    shape = out.get(case.kind, (b, -(-h // 2), -(-w // 2), 4 * c))
    d_out = normal(*shape, dtype=case.dtype)
    if case.kind == "channels last":  # as a neck of that memory format sends it
        d_out = d_out.to(memory_format=torch.channels_last)
    if case.kind == "embedding":
        x = x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    parameters = (1 + 0.3 * normal(channels), 0.3 * normal(channels))
    return [x.to(case.stream), *parameters, d_out, normal(b, h, w, c, dtype=case.stream)]


def plain(case: MapCase, inputs: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Result and gradients by PyTorch, norms in fp32 at least, as under autocast on a GPU."""
    *leaves, d_out, d_x = inputs
    leaves = [one.detach().requires_grad_() for one in leaves]
    x = neighbours(leaves[0], 2) if "merged" in case.kind else leaves[0]
    wide = torch.promote_types(x.dtype, torch.float32)
    weight, bias = (p.to(wide) for p in leaves[1:])
    out = F.layer_norm(x.to(wide), weight.shape, weight, bias, EPS).to(dtype)
    if case.kind in ("output", "channels last"):
        out = out.permute(0, 3, 1, 2)
    dx, *others = torch.autograd.grad(out, leaves, d_out)
    return [out, dx + d_x if "residual" in case.kind else dx, *others]


def ours(case: MapCase, inputs: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """By the kernels; neighbours are put back in the order that plain PyTorch has."""
    from swin_dense.ops.block.triton import maps

    x, weight, bias, d_out, d_x = inputs
    norm = Norm(weight, bias, EPS)
    if "merged" not in case.kind:
        first = case.kind != "embedding"
        out = maps.layer_norm_map(x, norm, dtype, first)
        assert out.is_contiguous()
        found = [out, *maps.layer_norm_map_backward(d_out, x, norm, first)]
        assert found[1].stride() == x.stride()
        return found
    out = maps.merged_layer_norm(x, norm, dtype)
    d_out = d_out.unflatten(-1, (-1, 4)).transpose(-1, -2).flatten(-2)
    residual = d_x if "residual" in case.kind else None
    found = maps.merged_layer_norm_backward(d_out, x, norm, residual)
    return [out.unflatten(-1, (4, -1)).transpose(-1, -2).flatten(-2), *found]


def assert_as_exact_as_plain_pytorch(case: MapCase, device: str = "cpu") -> None:
    """Errors against float64 are at most twice those of plain PyTorch in the same precision."""
    inputs = make_inputs(case, device)
    exact = plain(case, [x.double() for x in inputs], torch.double)
    rounded = plain(case, inputs, case.dtype)
    for i, found in enumerate(ours(case, inputs, case.dtype)):
        assert found.dtype == rounded[i].dtype
        assert found.shape == exact[i].shape
        error = (found.double() - exact[i]).abs().max()
        allowed = 2 * (rounded[i].double() - exact[i]).abs().max()
        rounding = torch.finfo(found.dtype).eps * exact[i].abs().max()
        assert error <= allowed + rounding, f"{i}: {error:.2g}, allowed {allowed:.2g}"
