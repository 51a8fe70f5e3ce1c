"""Compiling the Triton kernels for Hopper without a GPU, for their tests."""

from types import ModuleType

import torch

from swin_dense.benchmarks.kernel_calls import Inputs
from swin_dense.benchmarks.kernel_code import TARGETS

HOPPER = TARGETS["sm_90"]
INPUTS = Inputs(torch.bfloat16, torch.device("meta"))


def entry_points(*modules: ModuleType) -> set[str]:
    """Names of the kernels that are launched: sizes of a problem are among their arguments."""
    return {
        name
        for module in modules
        for name, value in vars(module).items()
        if any(one.do_not_specialize for one in getattr(value, "params", ()))
    }
