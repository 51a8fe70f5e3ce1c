"""norm_linear and proj_mlp by Triton kernels, with autograd, in Triton's interpreter on the CPU.

Run by ``test_triton_block.py`` in a separate process, see ``triton_block_interpreted.py``.
"""

import pytest
import torch
from plain_layers import Half, draw, gradients

from swin_dense.backbones.swin import SwinTransformer
from swin_dense.ops.block import Linear, Norm, api, norm_linear
from swin_dense.ops.block.triton import launch as triton_block
from swin_dense.ops.block.triton import maps
from swin_dense.ops.block.triton.support import PRODUCT_WIDTHS

NAMES = (
    "add",
    "add_layer_norm",
    "branch_gradient",
    "gelu",
    "gelu_backward",
    "gelu_linear_backward",
    "layer_norm",
    "layer_norm_backward",
    "linear_residual",
    "mlp",
    "mlp_backward",
    "norm_linear",
    "norm_linear_backward",
    "norm_linear_gelu",
    "residual_linear",
)
MAPS = (
    "layer_norm_map",
    "layer_norm_map_backward",
    "merged_layer_norm",
    "merged_layer_norm_backward",
)


def assert_close(ours, exact):
    """Up to fp32 rounding of the largest value."""
    bound = 1e-5 * max(1, exact.abs().max().item())
    torch.testing.assert_close(ours.to(exact.dtype), exact, rtol=0, atol=bound)


@pytest.fixture
def kernels(monkeypatch):
    """Names of the kernel launchers that are called."""
    called = []

    def watch(module, name):
        function = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a: called.append(name) or function(*a))

    for name in NAMES:
        watch(triton_block, name)
    for name in MAPS:
        watch(maps, name)
    return called


@pytest.mark.parametrize(
    ("channels", "keep"), [(32, False), (32, True), (48, False)], ids=["mlp", "kept", "recomputed"]
)
@pytest.mark.parametrize("stochastic", [False, True])
def test_proj_mlp_equals_plain_layers(channels, keep, stochastic, kernels, monkeypatch):
    monkeypatch.setattr(api, "RECOMPUTED_CHANNELS", 0 if keep else channels)
    scales = (torch.tensor((0, 1.25)), torch.tensor((1.25, 1.25))) if stochastic else (None, None)
    half = Half(channels, scales).float()
    inputs = [draw(2, 3, 3, channels, dtype=torch.float32, seed=i) for i in (1, 2)]
    ours = gradients(lambda *x: half.fused(*x, triton=True), inputs, half.parameters())
    exact = Half(channels, tuple(None if s is None else s.double() for s in scales)).double()
    exact_inputs = [x.detach().double().requires_grad_() for x in inputs]
    expected = gradients(exact.plain, exact_inputs, exact.parameters())
    for a, b in zip(ours, expected, strict=True):
        assert_close(a, b)
    with torch.no_grad():
        assert_close(half.fused(*inputs, triton=True), expected[0])
    one_kernel = channels in PRODUCT_WIDTHS
    assert ("mlp_backward" in kernels) == (one_kernel and not keep)
    for name in ("norm_linear_gelu", "residual_linear", "gelu_linear_backward"):
        assert (name in kernels) == (one_kernel and keep)
    for name in ("branch_gradient", "gelu", "gelu_backward", "add_layer_norm"):
        assert (name in kernels) == (not one_kernel)


@pytest.mark.parametrize(
    ("channels", "called"),
    [
        (24, ["layer_norm", "layer_norm", "layer_norm_backward"]),
        (32, ["norm_linear", "norm_linear_backward"]),
    ],
    ids=["several", "one kernel"],
)
def test_norm_linear_equals_plain_layers(channels, called, kernels):
    norm, linear = torch.nn.LayerNorm(channels), torch.nn.Linear(channels, 64)
    x = draw(2, 3, 5, channels, dtype=torch.float32)
    parameters = [*norm.parameters(), *linear.parameters()]
    layers = Norm(norm.weight, norm.bias, norm.eps), Linear(linear.weight, linear.bias)
    ours = gradients(lambda x: norm_linear(x, *layers, triton=True)[0], [x], parameters)
    plain = gradients(lambda x: linear(norm(x)), [x], parameters)
    for a, b in zip(ours, plain, strict=True):
        assert_close(a, b)
    assert kernels == called


def test_backbone_uses_all_available_kernels(kernels):
    """Blocks, a global attention block and patch merging, in training with stochastic depth."""
    sizes = {"embed_dims": 32, "depths": (2, 1), "num_heads": (1, 2), "strides": (4, 2)}
    options = {"window_size": 5, "out_indices": (0, 1), "global_attention": True}
    models = []
    for impl in ("triton", "reference"):
        torch.manual_seed(0)
        model = SwinTransformer(**sizes, **options, drop_path_rate=0.5, attn_impl=impl)
        for p in model.parameters():
            torch.nn.init.normal_(p, std=0.1)
        models.append(model)
    image = draw(2, 3, 24, 28, dtype=torch.float32)
    found = []
    for model in models:
        torch.manual_seed(1)

        def weighed(x, model=model):
            return sum((m * torch.linspace(-1, 1, m.numel()).view_as(m)).sum() for m in model(x))

        found.append(gradients(weighed, [image], model.parameters()))
    for a, b in zip(*found, strict=True):
        assert_close(a, b)
    assert kernels.count("norm_linear") == 2 + 1 + 1
    # Patch embedding and two output norms; patch merging, again for the gradient of its weight.
    assert kernels.count("layer_norm_map") == kernels.count("layer_norm_map_backward") == 1 + 2
    assert kernels.count("merged_layer_norm") == 2
    assert kernels.count("merged_layer_norm_backward") == 1
    assert kernels.count("mlp") == kernels.count("mlp_backward") == 2 + 1 + 1
