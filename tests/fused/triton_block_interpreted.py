"""The fused kernels of a block in Triton's interpreter, on the CPU.

Run by ``test_triton_block.py`` in a process of its own: Triton decides when it is imported
whether it compiles or interprets. By hand: ``TRITON_INTERPRET=1 pytest`` and this file.

Not in bf16, whose products the interpreter gets wrong.
"""

import pytest
import torch
from block_cases import FUNCTIONS, Case, assert_as_exact_as_plain_pytorch, make_inputs

from swin_dense.fused import triton_block

FP32, FP16 = torch.float32, torch.float16
NORMS = ("layer_norm", "add", "layer_norm_backward")


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize(
    "case",
    [
        Case(2, 35, 96, True, FP32, FP32),
        Case(4, 9, 64, True, FP32, FP16),
        Case(1, 33, 96, False, FP16, FP16),
        Case(1, 1, 1, False, FP32, FP32),
        Case(3, 2, 1536, True, FP16, FP16),
        Case(2, 1, 4096, True, FP32, FP16),
    ],
    ids=str,
)
def test_norms_are_as_exact_as_plain_pytorch(name, case):
    assert_as_exact_as_plain_pytorch(name, case)


@pytest.mark.parametrize("name", ["mlp", "mlp_backward"])
@pytest.mark.parametrize(
    "case",
    [
        Case(2, 35, 96, True, FP32, FP32, 384),
        Case(4, 9, 64, True, FP32, FP16, 96),
        Case(1, 33, 96, False, FP16, FP16, 64),
        Case(1, 1, 32, False, FP32, FP32, 32),
    ],
    ids=str,
)
def test_mlps_are_as_exact_as_plain_pytorch(name, case):
    assert_as_exact_as_plain_pytorch(name, case)
