"""Cases for the block's kernels, both in Triton's interpreter and on a GPU.

Every function is compared with plain PyTorch and its autograd. Importing this module does not
import Triton.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from swin_dense.ops.block import Linear, Norm

EPS = 1e-5
NORMS = ("layer_norm", "add", "layer_norm_backward", "gelu")
# Factors of stochastic depth: one image without the branch, the others scaled accordingly.
KEPT = (1.25, 0.0, 1.25, 1.25)


class Case(NamedTuple):
    """Sizes of a call, and the precisions of the residual stream and of matrix products."""

    images: int
    tokens: int
    channels: int
    scale: bool
    stream: torch.dtype
    dtype: torch.dtype
    hidden: int = 64

    def __str__(self) -> str:
        """The test's identifier."""
        kinds = "-".join(str(d).removeprefix("torch.") for d in (self.stream, self.dtype))
        scale = "-scale" if self.scale else ""
        return f"{self.images}x{self.tokens}x{self.channels}-{self.hidden}{scale}-{kinds}"


Tensors = dict[str, Tensor | None]


def make_inputs(case: Case, device: str = "cpu") -> Tensors:
    """Tensors for all functions; parameters are in fp32, as under autocast."""
    g = torch.Generator().manual_seed(3)
    rows, c, hidden = case.images * case.tokens, case.channels, case.hidden

    def normal(*shape: int, dtype: torch.dtype = torch.float32, factor: float = 1.0) -> Tensor:
        return (torch.randn(*shape, generator=g) * factor).to(device, dtype)

    return {
        # Not centred, like a residual stream.
        "x": (1 + normal(rows, c)).to(case.stream),
        "y": normal(rows, c, dtype=case.dtype),
        "scale": torch.tensor(KEPT[: case.images], device=device) if case.scale else None,
        "norm_weight": 1 + normal(c, factor=0.3),
        "norm_bias": normal(c, factor=0.3),
        "w1": normal(hidden, c, dtype=case.dtype, factor=c**-0.5),
        "b1": normal(hidden, factor=0.3),
        "w2": normal(c, hidden, dtype=case.dtype, factor=hidden**-0.5),
        "b2": normal(c, factor=0.3),
        "d": normal(rows, c, dtype=case.stream),
        "d_low": normal(rows, c, dtype=case.dtype),
        "h": normal(rows, hidden, dtype=case.dtype),
        "dh": normal(rows, hidden, dtype=case.dtype),
    }


def kept(scale: Tensor | None, branch: Tensor) -> Tensor:
    """A branch with stochastic depth."""
    if scale is None:
        return branch
    factor = scale.repeat_interleave(len(branch) // len(scale)).to(branch.dtype)
    return branch * factor[:, None]


def normed(x: Tensor, t: Tensors, dtype: torch.dtype) -> Tensor:
    """LayerNorm in at least fp32, as under autocast."""
    wide = torch.promote_types(x.dtype, torch.float32)
    weight, bias = t["norm_weight"].to(wide), t["norm_bias"].to(wide)
    return F.layer_norm(x.to(wide), x.shape[1:], weight, bias, EPS).to(dtype)


def norm_of(t: Tensors) -> Norm:
    """The norm that a function takes."""
    return Norm(t["norm_weight"], t["norm_bias"], EPS)


def gradients(out: Tensor, d: Tensor, inputs: Tensors) -> Tensors:
    """Gradients of a sum weighted by ``d``, with respect to named tensors."""
    given = dict(zip(inputs, torch.autograd.grad(out, list(inputs.values()), d), strict=True))
    return {f"d_{name}": grad for name, grad in given.items()}


def leaves(t: Tensors, *names: str) -> Tensors:
    """The tensors, some of which require gradients."""
    return {k: v.detach().requires_grad_() if k in names else v for k, v in t.items()}


def plain_norm(t: Tensors, dtype: torch.dtype) -> Tensors:
    return {"xn": normed(t["x"], t, dtype)}


def our_norm(t: Tensors, dtype: torch.dtype) -> Tensors:
    from swin_dense.ops.block.triton import launch as triton_block

    return {"xn": triton_block.layer_norm(t["x"], norm_of(t), dtype)}


def plain_add(t: Tensors, dtype: torch.dtype) -> Tensors:
    m = t["x"] + kept(t["scale"], t["y"]).to(t["x"].dtype)
    return {"m": m, "mn": normed(m, t, dtype), "sum": m}


def our_add(t: Tensors, dtype: torch.dtype) -> Tensors:
    from swin_dense.ops.block.triton import launch as triton_block

    m, mn = triton_block.add_layer_norm(t["x"], t["y"], t["scale"], norm_of(t), dtype)
    return {"m": m, "mn": mn, "sum": triton_block.add(t["x"], t["y"], t["scale"])}


def plain_norm_backward(t: Tensors, dtype: torch.dtype) -> Tensors:
    t = leaves(t, "x", "norm_weight", "norm_bias")
    wanted = {name: t[name] for name in ("x", "norm_weight", "norm_bias")}
    grads = gradients(normed(t["x"], t, dtype), t["d_low"], wanted)
    alone = grads["d_x"]
    grads["d_x"] = alone + t["d"]
    branch = kept(t["scale"], grads["d_x"]).to(dtype)
    d_branch_bias = branch.sum(0, dtype=torch.promote_types(dtype, torch.float32))
    return {**grads, "d_branch": branch, "d_branch_bias": d_branch_bias, "alone": alone}


def our_norm_backward(t: Tensors, dtype: torch.dtype) -> Tensors:
    from swin_dense.ops.block.triton import launch as triton_block

    call = (t["d_low"], t["x"], norm_of(t))
    found = triton_block.layer_norm_backward(*call, t["d"], t["scale"], dtype)
    alone, *_, no_branch, no_bias = triton_block.layer_norm_backward(*call)
    assert no_branch is no_bias is None
    names = ("d_x", "d_norm_weight", "d_norm_bias", "d_branch", "d_branch_bias", "alone")
    return dict(zip(names, (*found, alone), strict=True))


def plain_mlp(t: Tensors, dtype: torch.dtype) -> Tensors:
    """As under autocast: weights and biases in the precision of products."""
    hidden = F.gelu(F.linear(normed(t["x"], t, dtype), t["w1"].to(dtype), t["b1"].to(dtype)))
    branch = F.linear(hidden, t["w2"].to(dtype), t["b2"].to(dtype))
    return {"y": t["x"] + kept(t["scale"], branch).to(t["x"].dtype)}


def our_mlp(t: Tensors, dtype: torch.dtype) -> Tensors:
    from swin_dense.ops.block.triton import launch as triton_block

    fc1, fc2 = Linear(t["w1"], t["b1"]), Linear(t["w2"], t["b2"])
    return {"y": triton_block.mlp(t["x"], t["scale"], norm_of(t), fc1, fc2)}


def plain_mlp_backward(t: Tensors, dtype: torch.dtype) -> Tensors:
    names = ("x", "norm_weight", "norm_bias", "w1", "b1", "w2", "b2")
    t = leaves(t, *names)
    grads = gradients(plain_mlp(t, dtype)["y"], t["d"], {name: t[name] for name in names})
    # Of the branch before the norm, with the other factors than the MLP's.
    scale = None if t["scale"] is None else t["scale"].flip(0)
    branch = kept(scale, grads["d_x"]).to(dtype)
    d_branch_bias = branch.sum(0, dtype=torch.promote_types(dtype, torch.float32))
    return {**grads, "d_branch": branch, "d_branch_bias": d_branch_bias}


def our_mlp_backward(t: Tensors, dtype: torch.dtype) -> Tensors:
    from swin_dense.ops.block.triton import launch as triton_block

    fc1, fc2 = Linear(t["w1"], t["b1"]), Linear(t["w2"], None)
    scales = (None if t["scale"] is None else t["scale"].flip(0), t["scale"])
    found = triton_block.mlp_backward(t["x"], t["d"], scales, norm_of(t), fc1, fc2)
    return {
        "d_x": found.dm,
        "d_branch": found.d_branch,
        "d_branch_bias": found.d_branch_bias,
        "d_norm_weight": found.d_norm_weight,
        "d_norm_bias": found.d_norm_bias,
        "d_w1": found.dh.T @ found.mn,
        "d_b1": found.d_b1,
        "d_w2": found.d2.T @ found.g,
        "d_b2": found.d_b2,
    }


def plain_gelu(t: Tensors, dtype: torch.dtype) -> Tensors:
    t = leaves({**t, "h": t["y"]}, "h")
    active = F.gelu(t["h"])
    (d_h,) = torch.autograd.grad(active, t["h"], t["d_low"])
    wide = torch.promote_types(dtype, torch.float32)
    d_branch = kept(t["scale"], t["d"])
    return {
        "active": active,
        "again": active,
        "d_h": d_h,
        "d_b1": d_h.sum(0, dtype=wide),
        "d_branch": d_branch.to(dtype),
        "d_b2": d_branch.sum(0, dtype=wide),
    }


def our_gelu(t: Tensors, dtype: torch.dtype) -> Tensors:
    from swin_dense.ops.block.triton import launch as triton_block

    d_h, again, d_b1 = triton_block.gelu_backward(t["d_low"].clone(), t["y"])
    d_branch, d_b2 = triton_block.branch_gradient(t["d"], t["scale"], dtype)
    active = triton_block.gelu(t["y"])
    names = ("active", "again", "d_h", "d_b1", "d_branch", "d_b2")
    return dict(zip(names, (active, again, d_h, d_b1, d_branch, d_b2), strict=True))


def plain_linear(t: Tensors, dtype: torch.dtype) -> Tensors:
    """Attention's first and last linear layers, as autocast computes them."""
    last = F.linear(t["y"], t["w1"][: t["y"].shape[1]], None)
    residual = t["x"][:, : last.shape[1]] + kept(t["scale"], last).to(t["x"].dtype)
    first = F.linear(normed(t["x"], t, dtype), t["w1"], t["b1"].to(dtype))
    second = t["x"] + kept(t["scale"], F.linear(t["h"], t["w2"], t["b2"].to(dtype))).to(
        t["x"].dtype
    )
    return {
        "first": first,
        "residual": residual,
        "hidden": first,
        "active": F.gelu(first),
        "second": second,
    }


def our_linear(t: Tensors, dtype: torch.dtype) -> Tensors:
    from swin_dense.ops.block.triton import launch as triton_block

    w = t["w1"][: t["y"].shape[1]]
    x, first = t["x"][:, : len(w)], (t["x"], norm_of(t), Linear(t["w1"], t["b1"]))
    active, hidden = triton_block.norm_linear_gelu(*first, True)
    (again,) = triton_block.norm_linear_gelu(*first, False)
    assert torch.equal(active, again)
    second = Linear(t["w2"], t["b2"])
    return {
        "first": triton_block.norm_linear(*first),
        "residual": triton_block.linear_residual(t["y"], Linear(w, None), x, t["scale"]),
        "hidden": hidden,
        "active": active,
        "second": triton_block.residual_linear(t["h"], second, t["x"], t["scale"]),
    }


def plain_linear_backward(t: Tensors, dtype: torch.dtype) -> Tensors:
    """Of a norm and the linear layer after it, whose gradient is ``dh``."""
    names = ("x", "norm_weight", "norm_bias", "w1", "b1")
    t = leaves(t, *names)
    out = F.linear(normed(t["x"], t, dtype), t["w1"], t["b1"].to(dtype))
    grads = gradients(out, t["dh"], {name: t[name] for name in names})
    return {**grads, "alone": grads["d_x"], "d_x": grads["d_x"] + t["d"]}


def our_linear_backward(t: Tensors, dtype: torch.dtype) -> Tensors:
    from swin_dense.ops.block.triton import launch as triton_block

    call = (t["dh"], t["x"], norm_of(t), t["w1"])
    dx, xn, d_weight, d_bias, d_b1 = triton_block.norm_linear_backward(*call, t["d"])
    alone = triton_block.norm_linear_backward(*call, None)[0]
    return {
        "d_x": dx,
        "alone": alone,
        "d_norm_weight": d_weight,
        "d_norm_bias": d_bias,
        "d_w1": t["dh"].T @ xn,
        "d_b1": d_b1,
    }


def plain_gelu_linear_backward(t: Tensors, dtype: torch.dtype) -> Tensors:
    """Of GELU and the linear layer after it, on hidden units ``h``."""
    t = leaves(t, "h", "w2", "b2")
    active = F.gelu(t["h"])
    out = kept(t["scale"], F.linear(active, t["w2"], t["b2"].to(dtype)))
    wanted = {name: t[name] for name in ("h", "w2", "b2")}
    grads = gradients(out, t["d"].to(dtype), wanted)
    wide = torch.promote_types(dtype, torch.float32)
    return {**grads, "active": active, "d_b1": grads["d_h"].sum(0, dtype=wide)}


def our_gelu_linear_backward(t: Tensors, dtype: torch.dtype) -> Tensors:
    from swin_dense.ops.block.triton import launch as triton_block

    found = triton_block.gelu_linear_backward(t["d"], t["scale"], t["w2"], t["h"])
    return {
        "d_h": found.dh,
        "d_w2": found.d.T @ found.g,
        "d_b2": found.d_b,
        "active": found.g,
        "d_b1": found.d_bh,
    }


# Name of a function: plain and ours, which take tensors and the precision of products.
Function = Callable[[Tensors, torch.dtype], Tensors]
FUNCTIONS: dict[str, tuple[Function, Function]] = {
    "layer_norm": (plain_norm, our_norm),
    "add": (plain_add, our_add),
    "layer_norm_backward": (plain_norm_backward, our_norm_backward),
    "gelu": (plain_gelu, our_gelu),
    "mlp": (plain_mlp, our_mlp),
    "mlp_backward": (plain_mlp_backward, our_mlp_backward),
    "linear": (plain_linear, our_linear),
    "linear_backward": (plain_linear_backward, our_linear_backward),
    "gelu_linear_backward": (plain_gelu_linear_backward, our_gelu_linear_backward),
}


def assert_as_exact_as_plain_pytorch(name: str, case: Case, device: str = "cpu") -> None:
    """Errors against float64 are at most twice those of plain PyTorch in the same precision."""
    plain, ours = FUNCTIONS[name]
    inputs = make_inputs(case, device)
    exact = plain({k: None if v is None else v.double() for k, v in inputs.items()}, torch.double)
    rounded = plain(inputs, case.dtype)
    for key, found in ours(inputs, case.dtype).items():
        expected = exact[key]
        assert found.dtype == rounded[key].dtype, key
        assert found.shape == expected.shape, key
        error = (found.double() - expected).abs().max()
        allowed = 2 * (rounded[key].double() - expected).abs().max()
        # Where plain PyTorch is exact by chance, one rounding is allowed: of the result, or of the
        # inputs of a product.
        precision = found.dtype if name in NORMS else case.dtype
        rounding = torch.finfo(precision).eps * expected.abs().max()
        assert error <= allowed + rounding, f"{key}: {error:.2g}, allowed {allowed:.2g}"
