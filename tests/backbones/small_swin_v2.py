"""A Swin V2 of two stages for tests, whose parameters all take part in the result."""

import torch

from swin_dense import SwinTransformerV2

ARCH = {"embed_dims": 16, "depths": (2, 2), "num_heads": (2, 2)}
SMALL = {"arch": ARCH, "window_size": 5, "out_indices": (0, 1), "drop_path_rate": 0.0}


def randomise(model):
    """Norms unlike the identity, and factors of which some pass their limit."""
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=g)
            if name.endswith("logit_scale"):
                p.copy_(2.3 + 1.5 * noise)
            elif p.ndim == 1:
                p.copy_(0.2 * noise + (1 if "norm" in name and name.endswith("weight") else 0))
            else:
                p.copy_(noise / p[0].numel() ** 0.5)
    return model


def small_model(**options):
    return randomise(SwinTransformerV2(**{**SMALL, **options}))


def outputs_and_gradients(model, x):
    """Feature maps, and gradients of a random projection of them: of the input and parameters."""
    x = x.clone().requires_grad_()
    outs = list(model(x))
    loss = sum(
        (o * torch.randn(o.shape, generator=torch.Generator().manual_seed(i)).to(o)).mean()
        for i, o in enumerate(outs)
    )
    named = dict(model.named_parameters())
    grads = torch.autograd.grad(loss, [x, *named.values()], allow_unused=True)
    return outs, dict(zip(["input", *named], grads, strict=True))


def assert_agree(ours, theirs, tolerance):
    """Of :func:`outputs_and_gradients`: every difference relative to the largest value."""
    for (maps, grads), kind in (((ours[0], theirs[0]), "map"), ((ours[1], theirs[1]), "gradient")):
        pairs = (
            enumerate(zip(maps, grads, strict=True))
            if kind == "map"
            else ((name, (value, grads[name])) for name, value in maps.items())
        )
        for name, (a, b) in pairs:
            error = (a.double() - b.double()).abs().max() / b.abs().max().clamp(min=1e-6)
            assert error <= tolerance, f"{kind} {name}: relative error {error:.1e}"
