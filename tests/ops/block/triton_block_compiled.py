"""Compiles the block's kernels for Hopper without a GPU, and prints a line for each call.

Run by ``test_triton_block.py`` in a separate process. What kernels take of a GPU, at all widths:
``tools/benchmark.py kernels``.
"""

import torch
from hopper import HOPPER, INPUTS, entry_points

from swin_dense.benchmarks.kernel_calls import all_calls
from swin_dense.benchmarks.kernel_code import record_launches
from swin_dense.ops.block.triton import (
    gelu_kernels,
    launch,
    map_kernels,
    norm_kernels,
    product_kernels,
)


def main() -> None:
    compiled = set()
    for call in all_calls():
        if call.group == "C=96":
            compiled |= {one.name for one in call.launches(call.prepare(INPUTS), HOPPER).values()}
            print(f"{call.name} ok", flush=True)
    assert compiled == entry_points(gelu_kernels, map_kernels, norm_kernels, product_kernels)
    # Neither branch, residual nor factors of images: other code paths.
    inputs = INPUTS._replace(dtype=torch.float16)
    x, norm = inputs(1000, 96), inputs.norm(96)
    record_launches(lambda: launch.layer_norm(x, norm, torch.float16), HOPPER)
    record_launches(lambda: launch.layer_norm_backward(x, x, norm), HOPPER)
    print("norms alone ok")


if __name__ == "__main__":
    main()
