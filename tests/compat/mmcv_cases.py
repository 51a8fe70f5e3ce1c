"""Small calls of mmcv's public operators, and summaries of their outputs.

Run with a full, compiled mmcv, this file writes the outputs that ``test_mmcv_outputs.py`` compares
ours with: ``python tests/compat/mmcv_cases.py tests/compat/mmcv_outputs.json``.
"""

import importlib
import json
import sys
from collections.abc import Callable
from itertools import product

import numpy as np
import torch
from torch import Tensor

Outputs = dict[str, Tensor]


def uniform(seed: int, *shape: int) -> Tensor:
    # numpy guarantees the stream of RandomState; torch guarantees none.
    return torch.as_tensor(np.random.RandomState(seed).rand(*shape)).float()


def boxes_and_scores(seed: int, number: int) -> tuple[Tensor, Tensor]:
    corner, sides = uniform(seed, number, 2) * 60, uniform(seed + 1, number, 2) * 40 + 1
    return torch.cat([corner, corner + sides], dim=1), uniform(seed + 2, number)


def regions(seed: int, number: int, images: int) -> Tensor:
    """(number, 5) regions, some of them partly outside a 64 x 80 image, one without area."""
    boxes, _ = boxes_and_scores(seed, number)
    boxes[0] -= 20
    boxes[1, 2:] += 60
    boxes[2, 2:] = boxes[2, :2]
    batch = torch.arange(number) % images
    return torch.cat([batch[:, None].float(), boxes], dim=1)


def ops():
    return importlib.import_module("mmcv.ops")


def nms_case(offset: int, score_threshold: float, max_num: int) -> Outputs:
    boxes, scores = boxes_and_scores(1, 60)
    dets, keep = ops().nms(boxes, scores, 0.4, offset, score_threshold, max_num)
    return {"dets": dets, "keep": keep}


def batched_nms_case(method: str, class_agnostic: bool) -> Outputs:
    boxes, scores = boxes_and_scores(11, 60)
    classes = torch.arange(60) % 3
    config = {"type": method, "iou_threshold": 0.3}
    dets, keep = ops().batched_nms(boxes, scores, classes, config, class_agnostic)
    return {"dets": dets, "keep": keep}


def soft_nms_case(method: str, offset: int, min_score: float) -> Outputs:
    boxes, scores = boxes_and_scores(21, 80)
    dets, keep = ops().soft_nms(boxes, scores, 0.3, 0.5, min_score, method, offset)
    return {"dets": dets, "keep": keep}


def nms_match_case() -> Outputs:
    boxes, scores = boxes_and_scores(31, 40)
    groups = ops().nms_match(torch.cat([boxes, scores[:, None]], dim=1), 0.4)
    return {f"group_{number}": group for number, group in enumerate(groups)}


def roi_align_case(mode: str, aligned: bool, sampling_ratio: int) -> Outputs:
    features = (uniform(41, 2, 3, 16, 20) - 0.5).requires_grad_()
    output = ops().roi_align(
        features, regions(42, 9, 2), (3, 4), 0.25, sampling_ratio, mode, aligned
    )
    if mode == "max":
        # mmcv's maximum starts at -10000, which remains where a region has no sample.
        output = output.clamp(min=-9)[[0, 1, *range(3, 9)]]
    (output * (uniform(43, *output.shape) - 0.5)).sum().backward()
    return {"output": output, "grad": features.grad}


DEFORM = [
    # stride, padding, dilation, groups, deform_groups
    (1, 1, 1, 1, 1),
    (2, 1, 1, 2, 1),
    (1, 2, 2, 1, 2),
    ((2, 1), (0, 2), (1, 2), 2, 2),
]


def deform_case(number: int, modulated: bool, with_bias: bool = False) -> Outputs:
    *geometry, groups, deform_groups = DEFORM[number]
    features = uniform(51, 2, 4, 9, 11) - 0.5
    weight = uniform(52, 6, 4 // groups, 3, 3) - 0.5
    stride, padding, dilation = (g if isinstance(g, tuple) else (g, g) for g in geometry)
    height, width = (
        (size + 2 * p - 2 * d - 1) // s + 1
        for size, s, p, d in zip((9, 11), stride, padding, dilation, strict=True)
    )
    offset = 4 * uniform(53, 2, 18 * deform_groups, height, width) - 2
    leaves = {"input": features, "offset": offset}
    if modulated:
        leaves["mask"] = uniform(54, 2, 9 * deform_groups, height, width)
    leaves["weight"] = weight
    if with_bias:
        leaves["bias"] = uniform(55, 6)
    leaves = {name: leaf.requires_grad_() for name, leaf in leaves.items()}
    if modulated:
        bias = [leaves.get("bias")]
        output = ops().modulated_deform_conv2d(
            *list(leaves.values())[:4], *bias, stride, padding, dilation, groups, deform_groups
        )
    else:
        output = ops().deform_conv2d(
            *leaves.values(), stride, padding, dilation, groups, deform_groups
        )
    (output * (uniform(56, *output.shape) - 0.5)).sum().backward()
    return {"output": output, **{f"grad_{name}": leaf.grad for name, leaf in leaves.items()}}


def finer_offsets_case() -> Outputs:
    """Offsets and mask of twice the size, as DyHead passes them to its coarser level."""
    leaves = {
        "input": uniform(61, 2, 4, 5, 7) - 0.5,
        "offset": 4 * uniform(62, 2, 18, 9, 13) - 2,
        "mask": uniform(63, 2, 9, 9, 13),
        "weight": uniform(64, 6, 4, 3, 3) - 0.5,
    }
    leaves = {name: leaf.requires_grad_() for name, leaf in leaves.items()}
    output = ops().modulated_deform_conv2d(*leaves.values(), None, 1, 1, 1, 1, 1)
    (output * (uniform(65, *output.shape) - 0.5)).sum().backward()
    return {"output": output, **{f"grad_{name}": leaf.grad for name, leaf in leaves.items()}}


def cases() -> dict[str, Callable[[], Outputs]]:
    named: dict[str, Callable[[], Outputs]] = {
        "nms_match": nms_match_case,
        "finer_offsets": finer_offsets_case,
    }

    def add(function: Callable[..., Outputs], *arguments: object) -> None:
        label = "-".join(str(a) for a in (function.__name__.removesuffix("_case"), *arguments))
        named[label] = lambda: function(*arguments)

    for offset in (0, 1):
        add(nms_case, offset, 0.0, -1)
        add(nms_case, offset, 0.3, 5)
    for method, agnostic in product(("nms", "soft_nms"), (False, True)):
        add(batched_nms_case, method, agnostic)
    for method, offset, min_score in product(("naive", "linear", "gaussian"), (0, 1), (1e-3, 0.2)):
        add(soft_nms_case, method, offset, min_score)
    for mode, aligned, sampling_ratio in product(("avg", "max"), (False, True), (0, 2)):
        add(roi_align_case, mode, aligned, sampling_ratio)
    for number in range(len(DEFORM)):
        add(deform_case, number, False)
        add(deform_case, number, True, number % 2 == 0)
    return named


def summary(tensor: Tensor) -> dict[str, object]:
    """Shape, norm, a weighted sum that depends on the order, and a few values."""
    values = tensor.detach().double().flatten()
    if not tensor.is_floating_point():
        return {"shape": list(tensor.shape), "values": tensor.flatten().tolist()}
    weights = torch.cos(torch.arange(len(values), dtype=torch.float64))
    few = values[:: max(1, len(values) // 6)][:6]
    return {
        "shape": list(tensor.shape),
        "norm": values.norm().item(),
        "weighted_sum": (weights * values).sum().item(),
        "values": few.tolist(),
    }


def main(path: str) -> None:
    extension = importlib.import_module("mmcv._ext").__file__  # ours is not a file
    sums = {
        name: {key: summary(tensor) for key, tensor in case().items()}
        for name, case in cases().items()
    }
    with open(path, "w") as file:
        json.dump(sums, file, indent=None, separators=(",", ":"))
        file.write("\n")
    print(f"{len(sums)} cases of {extension} in {path}")


if __name__ == "__main__":
    main(sys.argv[1])
