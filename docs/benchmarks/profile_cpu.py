"""Shares of a Swin-T step's time on a CPU, 480 x 640, fp32: python docs/benchmarks/profile_cpu.py

Also logs whether oneDNN or MKL was faster for the linear layers.
"""

import logging

import torch
from torch.profiler import profile

from swin_dense import SwinTransformer

STEPS = 3
LINEAR = ("mkldnn::_linear_pointwise", "aten::addmm", "aten::addmm_", "aten::mm")
ATTENTION = ("aten::bmm", "aten::baddbmm_")


def main() -> None:
    """Print a line for forward and one for training."""
    logging.basicConfig()
    logging.getLogger("swin_dense.ops").setLevel(logging.DEBUG)
    model, image = SwinTransformer(arch="tiny"), torch.ones(1, 3, 480, 640)
    for training in (False, True):
        model.train(training)

        def step() -> None:
            with torch.set_grad_enabled(training):  # noqa: B023 - called in this round alone
                maps = model(image)
            if training:  # noqa: B023
                torch.autograd.backward(maps, [torch.ones_like(x) for x in maps])

        step()
        with profile() as found:
            for _ in range(STEPS):
                step()
        times = {event.key: event.self_cpu_time_total for event in found.key_averages()}
        shares = [sum(times.get(key, 0) for key in keys) for keys in (LINEAR, ATTENTION)]
        linear, attention = (f"{share / sum(times.values()):.0%}" for share in shares)
        name = "training" if training else "forward"
        print(f"{name}: {linear} linear layers, {attention} products of the attention")


main()
