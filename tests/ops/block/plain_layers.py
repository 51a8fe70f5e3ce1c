"""The plain layers that norm_linear and proj_mlp are compared with."""

import torch
from torch import nn
from torch.nn import functional as F

from swin_dense.ops.block import Linear, Norm, proj_mlp


def draw(*shape, dtype=torch.float64, seed=0):
    """Normal random numbers that require a gradient, the same for the same shape and seed."""
    g = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=g, dtype=torch.float64).to(dtype).requires_grad_()


class Half(nn.Module):
    """A block's layers after attention: projection and MLP."""

    def __init__(self, channels, scales=(None, None), bias=True):
        super().__init__()
        self.projection = nn.Linear(channels, channels, bias=bias)
        self.norm = nn.LayerNorm(channels, eps=1e-5)
        self.fc1 = nn.Linear(channels, 4 * channels, bias=bias)
        self.fc2 = nn.Linear(4 * channels, channels, bias=bias)
        self.scales = scales
        for i, p in enumerate(self.parameters()):
            p.data.copy_(draw(*p.shape, seed=i).detach())

    def plain(self, x, attended):
        """Computed by PyTorch's layers."""
        scales = (1 if s is None else s.view(-1, 1, 1, 1) for s in self.scales)
        x = x + next(scales) * self.projection(attended)
        return x + next(scales) * self.fc2(F.gelu(self.fc1(self.norm(x))))

    def fused(self, x, attended, triton=False):
        """Computed by proj_mlp."""
        projection, fc1, fc2 = (
            Linear(layer.weight, layer.bias) for layer in (self.projection, self.fc1, self.fc2)
        )
        norm = Norm(self.norm.weight, self.norm.bias, self.norm.eps)
        return proj_mlp(x, attended, projection, norm, fc1, fc2, self.scales, triton)


def gradients(function, inputs, parameters):
    """Output, and gradients of a loss that weights every output differently."""
    out = function(*inputs)
    weight = torch.linspace(-1, 1, out.numel()).view(out.shape).to(out)
    return [out, *torch.autograd.grad((out * weight).sum(), [*inputs, *parameters])]
