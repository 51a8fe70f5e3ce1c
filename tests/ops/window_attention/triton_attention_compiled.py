"""Compiles the attention kernels for Hopper without a GPU, and prints a line for each.

Run by ``test_triton_attention.py`` in a separate process; by hand with ``PYTHONPATH=tests``.
With ``--architectures`` it compiles for other GPUs instead. With ``--registers`` it also prints
the registers and local memory that ptxas reports; more than one warp's worth of the latter is slow.
"""

import sys
from pathlib import Path

import hopper
import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import CompiledKernel

from swin_dense.ops.window_attention.triton import kernels as triton_kernels
from swin_dense.ops.window_attention.triton.launch import schedule, tiles

# Tensors in the precision of qkv; the others are fp32, as parameters and sums are.
IN_PRECISION = ("qkv", "qkv_bias", "out", "d_out", "d_qkv")


def compiled(
    name: str, dtype: torch.dtype, target: GPUTarget = hopper.TARGET, **constants: object
) -> CompiledKernel:
    """A kernel for qkv of ``dtype``, shifted and padded."""
    usual = {"SHIFT": 3, "PADDED": True, "WIDE": False, "D": 32, "PRECISION": "ieee"}
    constants = {**usual, **constants}
    kernel, options = getattr(triton_kernels, name), schedule(name, dtype)
    return hopper.compiled(kernel, dtype, IN_PRECISION, constants, options, "scale", target)


def kernels(window_size: int) -> dict[str, dict[str, int]]:
    """Kernels for a window size, with their tiles."""
    tile = tiles(window_size)
    row = {"KEYS_1": tile.keys[0], "KEYS_2": tile.keys[1]}
    needed = {"forward": {"BLOCK": tile.forward, **row}}
    if window_size**2 <= 64:
        return {**needed, "backward": {"BLOCK": tile.forward}}
    return {
        **needed,
        "backward_queries": {"BLOCK": tile.backward_queries, **row},
        "backward_keys": {"BLOCK": tile.backward_keys, "QUERIES": tile.query_step},
    }


# Bytes of shared memory that a program may have, by compute capability.
SHARED_MEMORY = {80: 166912, 86: 101376, 89: 101376, 90: 232448, 100: 232448, 120: 101376}


def architectures() -> None:
    """Compiles for other GPUs what needs most shared memory."""
    todo = [
        (86, "backward_queries", 16, torch.float32, {}),
        (86, "backward_queries", 16, torch.float32, {"PRECISION": "tf32"}),
        (120, "backward_queries", 16, torch.float32, {"PRECISION": "tf32"}),
        (86, "forward", 12, torch.bfloat16, {"D": 64}),
        *((c, "backward", 8, torch.float32, {"PRECISION": "tf32"}) for c in SHARED_MEMORY),
    ]
    for capability, name, window_size, dtype, constants in todo:
        constants = {"M": window_size, **kernels(window_size)[name], **constants}
        kernel = compiled(name, dtype, GPUTarget("cuda", capability, 32), **constants)
        shared = kernel.metadata.shared
        fits = "ok" if shared <= SHARED_MEMORY[capability] else "does not fit"
        print(f"{name} M={window_size} {dtype} sm_{capability}: {shared} bytes {fits}", flush=True)


def main() -> None:
    report = "--registers" in sys.argv
    todo = [(7, torch.bfloat16), (12, torch.bfloat16)]
    if report:
        todo += [(m, d) for m in (7, 12, 16) for d in (torch.float16, torch.float32)]
    for window_size, dtype in todo:
        for name, tile in kernels(window_size).items():
            kernel = compiled(name, dtype, M=window_size, **tile)
            counts = (
                f" {hopper.registers(kernel)}, {kernel.metadata.shared} shared" if report else ""
            )
            print(f"{Path(__file__).stem} {name} M={window_size} {dtype}{counts} ok", flush=True)
    if not report:
        # 64-bit offsets, and neither bias: other code paths.
        tile = kernels(7)["backward"]
        nothing = {"qkv_bias": None, "position_bias": None, "d_position_bias": None}
        compiled("backward", torch.float16, M=7, **{**tile, **nothing, "WIDE": True})
        print("backward without biases ok")


if __name__ == "__main__":
    architectures() if "--architectures" in sys.argv else main()
