"""Whether models compute the same: checked before any of them is timed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from swin_dense.analysis.parity import largest_error
from swin_dense.benchmarks.baselines import OURS, Spec, build_models
from swin_dense.benchmarks.measurement import Run
from swin_dense.errors import UserError

# Largest difference over the largest value, after up to 24 blocks and random weights.
TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1}
# Its classes are the dense prediction code itself, so it has to agree at every size.
_SAME_AT_EVERY_SIZE = ("mmdet",)


def check_agreement(spec: Spec, names: list[str], run: Run) -> dict[str, dict[str, Any]]:
    """Compare outputs and the gradient of the image, of one image, with ours.

    At sizes that are not whole windows, libraries for classification are other functions than
    dense prediction code. Their weights and blocks are then checked at a size where all agree.

    Returns:
        Of each baseline: ``difference``, ``checked_at`` (height, width), and perhaps a ``note``.

    Raises:
        UserError: a baseline does not agree where it should.
    """
    side = 64 * spec.window_size
    check = spec if spec.whole_windows else replace(spec, size=(side, side))
    tolerance = TOLERANCES[run.dtype]
    records: dict[str, dict[str, Any]] = {}
    for name, error in _differences_of(spec, names, run).items():
        records[name] = {"difference": error, "checked_at": list(spec.size)}
    differing = [name for name in names if not records[name]["difference"] <= tolerance]
    excused = [n for n in differing if check is not spec and n not in _SAME_AT_EVERY_SIZE]
    for name, error in _differences_of(check, excused, run).items():
        there = records[name]["difference"]
        note = f"differs by {there:.1g} at the timed size, by definition (windows at the edges)"
        records[name] = {"difference": error, "checked_at": list(check.size), "note": note}
    for name, record in records.items():
        height, width = record["checked_at"]
        if not record["difference"] <= tolerance:
            raise UserError(
                f"{name} and ours disagree by {record['difference']:.1g} at {height}x{width}, "
                f"{run.dtype}, with the same weights: nothing was timed"
            )
        record["difference"] = float(f"{record['difference']:.2g}")
    return records


def _differences_of(spec: Spec, names: list[str], run: Run) -> dict[str, float]:
    if not names:
        return {}
    return differences(build_models(spec, names, run.device), run.image(spec.size, batch=1), run)


def differences(models: Mapping[str, nn.Module], image: Tensor, run: Run) -> dict[str, float]:
    """How far each model is from ours: the worst of its feature maps, with and without gradients,
    and of the gradient of the image.

    The models should be in evaluation mode, where nothing is random.

    Args:
        models: by name, :data:`OURS` among them; each turns an image into feature maps.
        image: ``(B, 3, H, W)``.

    Returns:
        Of each other model, the largest difference over ours' largest value; infinite if shapes
        differ.

    Raises:
        UserError: torch.compile fails on a model that is to be compiled.
    """
    outputs = {}
    for name, model in models.items():
        try:
            outputs[name] = _outputs(model, image, run)
        except RuntimeError as error:
            # By name: the class is private, and importing it would load the compiler.
            if all(kind.__name__ != "TorchDynamoException" for kind in type(error).__mro__):
                raise
            raise UserError(
                f"torch.compile fails on {name} ({type(error).__name__}): remove it from "
                "--against, or remove --compile"
            ) from error
    expected = outputs.pop(OURS)
    return {name: largest_error(expected, found) for name, found in outputs.items()}


def _outputs(model: nn.Module, image: Tensor, run: Run) -> list[Tensor]:
    with torch.no_grad(), run.precision():
        # Without gradients a model may go another way. Another image comes first, so that a CUDA
        # graph that kept its results would be found out.
        model(torch.zeros_like(image))
        inferred = [x.float().clone() for x in model(image)]
    image = image.detach().clone().requires_grad_()
    with run.precision():
        maps = [x.float() for x in model(image)]
    # Unequal weights, so that an exchange of two places or channels would be seen.
    total = sum(
        (x * torch.linspace(-1, 1, x.numel(), device=x.device).view_as(x)).sum() for x in maps
    )
    (gradient,) = torch.autograd.grad(total, image)
    return [*inferred, *(x.detach() for x in maps), gradient]
