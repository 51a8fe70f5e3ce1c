"""Compiles the block's kernels for Hopper without a GPU, and prints a line for each.

Run by ``test_triton_block.py`` in a separate process; by hand with ``PYTHONPATH=tests``. With
``--registers`` (and parts of kernel names) it prints the registers and local memory that ptxas
reports, at all widths.
"""

import sys

import hopper
import torch
from triton.compiler import CompiledKernel

from swin_dense.ops.block.triton import gelu_kernels, product_kernels
from swin_dense.ops.block.triton import launch as triton_block
from swin_dense.ops.block.triton import norm_kernels as triton_norm_kernels
from swin_dense.ops.block.triton.launch import linear_schedule, mlp_schedule, norm_schedule
from swin_dense.ops.block.triton.support import PRODUCT_WIDTHS

# Tensors in the precision of products; the others are fp32, like the residual stream in autocast.
IN_PRECISION = ("y", "mn", "d_xn", "d_branch", "w", "w1", "w2", "g", "dh", "d2", "h")
WIDTHS = (96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)


def compiled(kernel, dtype: torch.dtype, schedule: dict, **constants: object) -> CompiledKernel:
    """A kernel for products in ``dtype``."""
    options = {k: v for k, v in schedule.items() if k.startswith("num_")}
    constants |= {k: v for k, v in schedule.items() if k not in options}
    names = IN_PRECISION
    if kernel is product_kernels.linear:
        # With a norm it reads the residual stream, without one it writes it.
        names += ("a",) if "norm_weight" in constants else ("out",)
    if kernel is gelu_kernels.branch_backward:
        names += ("out",) if "h" in constants else ("d", "out")
    return hopper.compiled(kernel, dtype, names, constants, options, number="eps")


def kernels(channels: int, dtype: torch.dtype, precision: str) -> list[tuple]:
    """Kernels for a number of channels, with their constants and schedules."""
    constants = {"C": channels}
    todo = [
        (triton_norm_kernels.add_layer_norm, constants, norm_schedule("forward", channels)),
        (triton_norm_kernels.layer_norm_backward, constants, norm_schedule("backward", channels)),
    ]
    backward = gelu_kernels.branch_backward
    alone = {"C": channels, "h": None, "g": None}
    todo += [
        (gelu_kernels.gelu, {}, triton_block._GELU),
        (backward, {"C": 4 * channels, "scale": None}, triton_block._BRANCH_BACKWARD),
        (backward, alone, triton_block._BRANCH_BACKWARD),
    ]
    if channels in PRODUCT_WIDTHS:
        constants = {"PRECISION": precision}
        for kernel in (product_kernels.mlp, product_kernels.mlp_backward):
            direction = "backward" if kernel.__name__.endswith("backward") else "forward"
            schedule = mlp_schedule(direction, channels, 4 * channels, dtype)
            todo.append((kernel, constants, schedule))
        linear = product_kernels.linear
        norm = {**constants, "x": None, "scale": None}
        residual = {**constants, "norm_weight": None, "norm_bias": None}
        todo.append((linear, norm, linear_schedule(channels, 3 * channels, dtype)))
        todo.append((linear, residual, linear_schedule(channels, channels, dtype)))
    return todo


def report(wanted: list[str]) -> None:
    """Print the kernels whose names contain one of the words, for all widths and precisions."""
    kinds = [(torch.bfloat16, "ieee"), (torch.float32, "tf32"), (torch.float32, "ieee")]
    for dtype, precision in kinds:
        for channels in WIDTHS:
            for kernel, constants, schedule in kernels(channels, dtype, precision):
                name = kernel.__name__
                if wanted and not any(word in name for word in wanted):
                    continue
                if "PRECISION" not in constants and precision == "tf32":
                    continue
                done = compiled(kernel, dtype, schedule, **constants)
                counts = f"{hopper.registers(done)}, {done.metadata.shared} shared"
                print(f"{name} C={channels} {dtype} {precision} {counts}", flush=True)


def main() -> None:
    if sys.argv[1:2] == ["--registers"]:
        report(sys.argv[2:])
        return
    todo = kernels(96, torch.bfloat16, "ieee")
    for kernel, constants, schedule in todo:
        compiled(kernel, torch.bfloat16, schedule, **constants)
        print(f"{kernel.__name__} ok", flush=True)
    # Without branch, residual and drop path factors: other code paths.
    (forward, constants, schedule), (backward, _, backward_schedule), *_ = todo
    constants = {**constants, "scale": None}
    compiled(forward, torch.float16, schedule, **constants, y=None, m=None)
    nothing = {"d_residual": None, "d_branch": None}
    compiled(backward, torch.float16, backward_schedule, **constants, **nothing)
    print("norms alone ok")


if __name__ == "__main__":
    main()
