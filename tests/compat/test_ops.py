"""Focal loss, RoI pooling, deformable convolution and attention against plain references."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmcv.ops import (
    deform_conv2d,
    modulated_deform_conv2d,
    roi_align,
    roi_pool,
    sigmoid_focal_loss,
    softmax_focal_loss,
)
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction
from mmcv_cases import regions, uniform
from torch import Tensor
from torch.autograd import gradcheck

import swin_dense  # noqa: F401

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]
SHAPES = torch.tensor([[4, 5], [2, 3]])


def attention(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    shapes = SHAPES.to(value.device)
    start = torch.tensor([0, 20], device=value.device)
    return MultiScaleDeformableAttnFunction.apply(value, shapes, start, locations, weights, 64)


def attention_inputs() -> list[Tensor]:
    locations = 1.2 * uniform(63, 2, 3, 2, 2, 4, 2) - 0.1  # some lie outside
    return [uniform(61, 2, 26, 2, 3) - 0.5, locations, uniform(62, 2, 3, 2, 2, 4)]


def conv_inputs() -> list[Tensor]:
    """Input, offset, mask, weight for kernel 3, padding 1, two deform groups."""
    return [
        uniform(71, 2, 4, 5, 6) - 0.5,
        3 * uniform(72, 2, 36, 5, 6) - 1.5,
        uniform(73, 2, 18, 5, 6),
        uniform(74, 6, 2, 3, 3) - 0.5,
    ]


def call(name: str) -> tuple[Callable[..., Tensor], list[Tensor]]:
    """A differentiable operator, and its input tensors."""
    features, rois = uniform(81, 2, 3, 8, 10) - 0.5, regions(82, 5, 2)
    logits, target = 6 * uniform(83, 7, 4) - 3, torch.tensor([0, 1, 2, 3, 4, 0, 2])
    geometry: tuple[Any, ...] = (1, 1, 1, 2, 2)
    image, offset, mask, weight = conv_inputs()

    def on(tensor: Tensor, like: Tensor) -> Tensor:
        return tensor.to(like) if tensor.is_floating_point() else tensor.to(like.device)

    return {
        "roi_align": (lambda x: roi_align(x, on(rois, x), 3, 0.125, 2), [features]),
        "roi_align_max": (lambda x: roi_align(x, on(rois, x), 3, 0.125, 2, "max"), [features]),
        "roi_pool": (lambda x: roi_pool(x, on(rois, x), 3, 0.125), [features]),
        "sigmoid_focal_loss": (
            lambda x: sigmoid_focal_loss(x, on(target, x), 2.0, 0.25, None, "none"),
            [logits],
        ),
        "softmax_focal_loss": (
            lambda x: softmax_focal_loss(x, on(target % 4, x), 2.0, 0.25, None, "sum"),
            [logits],
        ),
        "deform_conv2d": (
            lambda x, o, w: deform_conv2d(x, o, w, *geometry),
            [image, offset, weight],
        ),
        "modulated_deform_conv2d": (
            lambda x, o, m, w, b: modulated_deform_conv2d(x, o, m, w, b, *geometry),
            [image, offset, mask, weight, uniform(75, 6)],
        ),
        "ms_deform_attn": (attention, attention_inputs()),
    }[name]


NAMES = [
    "roi_align",
    "roi_align_max",
    "roi_pool",
    "sigmoid_focal_loss",
    "softmax_focal_loss",
    "deform_conv2d",
    "modulated_deform_conv2d",
    "ms_deform_attn",
]


def run(
    function: Callable[..., Tensor], inputs: list[Tensor], rounding: torch.dtype | None = None
) -> list[Tensor]:
    """The output and the gradients of a fixed weighted sum of it, its weights rounded."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    output = function(*leaves)
    weights = uniform(91, *output.shape).to(rounding or output.dtype) - 0.5
    return [output.detach(), *torch.autograd.grad(output, leaves, weights.to(output))]


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck(name: str) -> None:
    function, inputs = call(name)
    leaves = [tensor.double().requires_grad_() for tensor in inputs]
    # float64 goes through float64 kernels, so gradcheck's own tolerances hold.
    assert gradcheck(function, leaves, fast_mode=True)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_equals_rounded_float32(name: str, dtype: torch.dtype, device: str) -> None:
    function, inputs = call(name)
    halves = [tensor.to(device, dtype) for tensor in inputs]
    if name.startswith("roi"):  # the regions are rounded too
        rounded = regions(82, 5, 2).to(dtype)
        pool = {"roi_align": roi_align, "roi_align_max": roi_align, "roi_pool": roi_pool}[name]
        extra = {"roi_align": (2,), "roi_align_max": (2, "max"), "roi_pool": ()}[name]

        def function(x: Tensor) -> Tensor:
            return pool(x, rounded.to(x), 3, 0.125, *extra)

    # mmcv itself takes the softmax, and the sum of the losses, in half precision.
    tolerance = torch.finfo(dtype).eps * (4 if name == "softmax_focal_loss" else 1)
    expected = run(function, [half.float() for half in halves], rounding=dtype)
    for half, full in zip(run(function, halves), expected, strict=True):
        assert half.dtype is dtype
        assert half.device.type == device
        scale = max(1.0, full.abs().max().item())
        assert (half.float() - full).abs().max().item() <= tolerance * scale


@pytest.mark.parametrize("device", DEVICES[1:])
@pytest.mark.parametrize("name", NAMES)
def test_cuda_equals_cpu(name: str, device: str) -> None:
    function, inputs = call(name)
    expected = run(function, inputs)
    actual = run(function, [tensor.to(device) for tensor in inputs])
    for a, e in zip(actual, expected, strict=True):
        # Sums of a few hundred float32 terms, in another order.
        torch.testing.assert_close(a.cpu(), e, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_sigmoid_focal_loss(weighted: bool) -> None:
    logits = (8 * uniform(1, 6, 3) - 4).requires_grad_()
    target = torch.tensor([0, 1, 2, 0, 2, 1] if weighted else [0, 3, 2, -1, 1, 3])
    weight = torch.tensor([0.5, 1.0, 2.0]) if weighted else None
    loss = sigmoid_focal_loss(logits, target, 1.5, 0.3, weight, "mean")
    (grad,) = torch.autograd.grad(loss, logits)

    exact = logits.detach().double().requires_grad_()
    p = exact.sigmoid()
    hit = target[:, None] == torch.arange(3)
    p_t, alpha_t = torch.where(hit, p, 1 - p), torch.where(hit, 0.3, 0.7)
    plain = -alpha_t * (1 - p_t) ** 1.5 * p_t.log()
    if weight is not None:
        plain = plain * weight[target][:, None]
    expected = plain.sum() / 6
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(grad.double(), torch.autograd.grad(expected, exact)[0])


def test_sigmoid_focal_loss_of_extreme_logits() -> None:
    logits = torch.tensor([[500.0, -500.0]], requires_grad=True)
    loss = sigmoid_focal_loss(logits, torch.tensor([1]), 0.5, 0.25, None, "sum")
    (grad,) = torch.autograd.grad(loss, logits)
    assert loss.item() == pytest.approx(0.75 * 500 + 0.25 * 500)
    assert grad.tolist() == [[0.75, -0.25]]


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_softmax_focal_loss(gamma: float) -> None:
    logits = (8 * uniform(2, 6, 3) - 4).requires_grad_()
    target, weight = torch.tensor([0, -1, 2, 1, 0, 2]), torch.tensor([0.5, 1.0, 2.0])
    loss = softmax_focal_loss(logits, target, gamma, 0.3, weight, "sum")
    (grad,) = torch.autograd.grad(loss, logits)

    exact = logits.detach().double().requires_grad_()
    keep = target >= 0
    p = exact.softmax(1)[keep, target[keep]]
    expected = (-0.3 * weight[target[keep]] * (1 - p) ** gamma * p.log()).sum()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(
        grad.double(), torch.autograd.grad(expected, exact)[0], rtol=1e-5, atol=1e-6
    )


def plain_roi_pool(features: Tensor, rois: Tensor, size: tuple[int, int], scale: float) -> Tensor:
    height, width = features.shape[2:]
    output = features.new_zeros(len(rois), features.shape[1], *size)
    for r, (batch, *box) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (scale * (side + (i >= 2)) for i, side in enumerate(box))
        for ph in range(size[0] if x2 > x1 and y2 > y1 else 0):
            for pw in range(size[1]):
                step_y, step_x = (y2 - y1) / size[0], (x2 - x1) / size[1]
                rows = slice(
                    min(max(int((y1 + ph * step_y) // 1), 0), height),
                    min(max(int(-((-y1 - (ph + 1) * step_y) // 1)), 0), height),
                )
                columns = slice(
                    min(max(int((x1 + pw * step_x) // 1), 0), width),
                    min(max(int(-((-x1 - (pw + 1) * step_x) // 1)), 0), width),
                )
                pixels = features[int(batch), :, rows, columns].flatten(1)
                if pixels.shape[1]:
                    output[r, :, ph, pw] = pixels.max(dim=1).values
    return output


def test_roi_pool() -> None:
    features = uniform(3, 2, 3, 16, 20) - 0.5
    rois = regions(4, 8, 2)
    rois[3, 3:] = rois[3, 1:3] - 5  # negative size
    rois[4, 1:] += 200  # outside the feature map
    output = roi_pool(features, rois, (3, 4), 0.25)
    assert output.equal(plain_roi_pool(features, rois, (3, 4), 0.25))
    assert roi_pool(features, rois[:0], (3, 4), 0.25).shape == (0, 3, 3, 4)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_roi_align_is_exact_for_linear_functions(mode: str, sampling_ratio: int) -> None:
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(20.0), indexing="ij")
    plane = (2 * rows - 3 * columns)[None, None]
    rois = torch.tensor([[0, 8.0, 12, 40, 48], [0, 20, 4, 60, 44]])
    output = roi_align(plane, rois, (3, 4), 0.25, sampling_ratio, mode, True)
    scaled = rois[:, 1:] * 0.25 - 0.5
    step = (scaled[:, 2:] - scaled[:, :2]) / torch.tensor([4, 3])
    y = scaled[:, 1, None] + (torch.arange(3) + 0.5) * step[:, 1, None]
    x = scaled[:, 0, None] + (torch.arange(4) + 0.5) * step[:, 0, None]
    expected = 2 * y[:, :, None] - 3 * x[:, None, :]
    if mode == "max":  # the sample lowest in the bin and leftmost
        points = step.new_full((2, 2), 2.0) if sampling_ratio else step.ceil()
        to_last = step * (points - 1) / points / 2
        expected = expected + (2 * to_last[:, 1] + 3 * to_last[:, 0])[:, None, None]
    torch.testing.assert_close(output[:, 0], expected, rtol=1e-5, atol=1e-4)
    assert roi_align(plane, rois[:0], 7, 0.25, 0, mode).shape == (0, 1, 7, 7)


def test_deform_conv_without_offsets_equals_convolution() -> None:
    image, offset, mask, weight = conv_inputs()
    expected = F.conv2d(image, weight, padding=1, groups=2)
    output = deform_conv2d(image, torch.zeros_like(offset), weight, 1, 1, 1, 2, 2)
    torch.testing.assert_close(output, expected)
    output = modulated_deform_conv2d(
        image, torch.zeros_like(offset), torch.full_like(mask, 0.5), weight, None, 1, 1, 1, 2, 2
    )
    torch.testing.assert_close(output, 0.5 * expected)


def test_deform_conv_offsets_are_row_first() -> None:
    image, offset, _, weight = conv_inputs()
    offset = torch.zeros_like(offset)
    offset[:, 0::2] = 1  # one row down
    output = deform_conv2d(image, offset, weight, 1, 1, 1, 2, 2)
    down = F.pad(image[:, :, 1:], (0, 0, 0, 1))
    # Rows whose window stays inside, where moving the samples or the image is the same.
    expected = F.conv2d(down, weight, padding=1, groups=2)
    torch.testing.assert_close(output[:, :, 1:], expected[:, :, 1:])


def test_deform_conv_weight_gradient_alone() -> None:
    image, offset, _, weight = conv_inputs()
    together = run(lambda x, o, w: deform_conv2d(x, o, w, 1, 1, 1, 2, 2), [image, offset, weight])
    alone = run(lambda w: deform_conv2d(image, offset, w, 1, 1, 1, 2, 2), [weight])
    torch.testing.assert_close(alone[1], together[3])


def test_deform_conv_second_backward() -> None:
    function, inputs = call("deform_conv2d")
    leaves = [tensor.requires_grad_() for tensor in inputs]
    output = function(*leaves)
    first = torch.autograd.grad(output.sum(), leaves, retain_graph=True)
    second = torch.autograd.grad(3 * output.sum(), leaves)
    for one, three in zip(first, second, strict=True):
        torch.testing.assert_close(3 * one, three)


def test_multi_scale_deformable_attention() -> None:
    value, locations, weights = attention_inputs()
    output = attention(value, locations, weights)
    expected = torch.zeros(2, 3, 2, 3)
    levels = value.split([20, 6], dim=1)
    for index in torch.cartesian_prod(*(torch.arange(n) for n in weights.shape)).tolist():
        b, q, head, level, point = index
        height, width = SHAPES[level].tolist()
        level_map = levels[level][b, :, head].view(height, width, 3)
        x, y = (locations[b, q, head, level, point] * torch.tensor([width, height]) - 0.5).tolist()
        for row in range(height):
            for column in range(width):
                near = max(0.0, 1 - abs(y - row)) * max(0.0, 1 - abs(x - column))
                share = near * weights[b, q, head, level, point]
                expected[b, q, head] += share * level_map[row, column]
    torch.testing.assert_close(output, expected.flatten(2), rtol=1e-4, atol=1e-5)


def test_shapes_of_attention_are_read_once(monkeypatch) -> None:
    """All layers of a step pass the same tensor; one that was changed in place is read again."""
    reads = []
    tolist = Tensor.tolist
    monkeypatch.setattr(Tensor, "tolist", lambda x: reads.append(1) or tolist(x))
    value, locations, weights = attention_inputs()
    value.requires_grad_()
    shapes, start = SHAPES.clone(), torch.tensor([0, 20])

    def attend() -> Tensor:
        arguments = (value, shapes, start, locations, weights, 64)
        return MultiScaleDeformableAttnFunction.apply(*arguments)

    first = attend()
    first.sum().backward()
    assert attend().equal(first)
    assert len(reads) == 1
    shapes.copy_(torch.tensor([[5, 4], [2, 3]]))
    changed = attend()
    assert len(reads) == 2
    assert not changed.equal(first)
    with torch.inference_mode():
        shapes = SHAPES.clone()
        assert attend().equal(first)


def test_operators_run_in_float32_under_autocast() -> None:
    for name in ("deform_conv2d", "ms_deform_attn", "roi_align"):
        function, inputs = call(name)
        expected = run(function, inputs)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            actual = run(function, inputs)
        for a, e in zip(actual, expected, strict=True):
            assert a.dtype is torch.float32
            assert a.equal(e)
