"""Whether contestants compute the same: asked before any of them is timed."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from swin_dense.benchmarks.baselines import OURS
from swin_dense.errors import UserError

# Largest difference over the largest value, after up to 24 blocks and random weights.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def precision(dtype: torch.dtype, device: torch.device) -> contextlib.AbstractContextManager:
    """Mixed precision in ``dtype``; nothing for float32."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype)


def differences(
    models: Mapping[str, nn.Module], image: Tensor, dtype: torch.dtype
) -> dict[str, float]:
    """How far each contestant is from ours: maps, with and without gradients, and the gradient of
    the image; the worst of them.

    The models should be in evaluation mode, where nothing is drawn at random.

    Args:
        models: by name, :data:`OURS` among them; each turns an image into maps.
        image: ``(B, 3, H, W)``.
        dtype: precision; lower ones by autocast.

    Returns:
        Of each other model, the largest difference over ours' largest value; infinite if shapes
        differ.

    Raises:
        UserError: torch.compile fails on a model that is to be compiled.
    """
    outputs = {}
    for name, model in models.items():
        try:
            outputs[name] = _outputs(model, image, dtype)
        except RuntimeError as error:
            if not _is_of_compiler(error):
                raise
            raise UserError(
                f"torch.compile fails on {name} ({type(error).__name__}): leave it out of "
                "--against, or --compile"
            ) from error
    expected = outputs.pop(OURS)
    return {name: _largest(expected, found) for name, found in outputs.items()}


def _is_of_compiler(error: Exception) -> bool:
    # Loaded only where something is compiled: it takes its time.
    compiler = sys.modules.get("torch._dynamo.exc")
    return compiler is not None and isinstance(error, compiler.TorchDynamoException)


def _outputs(model: nn.Module, image: Tensor, dtype: torch.dtype) -> list[Tensor]:
    with torch.no_grad(), precision(dtype, image.device):
        # Without gradients a model may go another way. Another image comes first, so that a CUDA
        # graph that kept its results would be found out.
        model(torch.zeros_like(image))
        inferred = [x.float().clone() for x in model(image)]
    image = image.detach().clone().requires_grad_()
    with precision(dtype, image.device):
        maps = [x.float() for x in model(image)]
    # Unequal weights, so that an exchange of two places or channels would be seen.
    total = sum(
        (x * torch.linspace(-1, 1, x.numel(), device=x.device).view_as(x)).sum() for x in maps
    )
    (gradient,) = torch.autograd.grad(total, image)
    return [*inferred, *(x.detach() for x in maps), gradient]


def _largest(expected: list[Tensor], found: list[Tensor]) -> float:
    if [x.shape for x in expected] != [x.shape for x in found]:
        return float("inf")
    pairs = zip(expected, found, strict=True)
    errors = [float((a - b).abs().max() / a.abs().max().clamp(min=1e-30)) for a, b in pairs]
    # max() would pass over a nan that is not the first
    return float("inf") if any(error != error for error in errors) else max(errors)
