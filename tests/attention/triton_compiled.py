"""Compiles the fused kernels for Hopper on a machine without a GPU, a line for each.

Run by ``test_triton_attention.py`` in a process of its own. With ``--registers`` it also prints
what ptxas says of registers and local memory; more than one warp's worth of the latter is slow.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel, compile

from swin_dense.attention import triton_kernels
from swin_dense.attention.triton_launch import schedule, tiles

TARGET = GPUTarget("cuda", 90, 32)
ELEMENT = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32"}
# Tensors in the precision of qkv; the others are fp32, as parameters and sums are.
IN_PRECISION = ("qkv", "out", "d_out", "d_qkv")


def compiled(name: str, dtype: torch.dtype, **constants: object) -> CompiledKernel:
    """A kernel for qkv of ``dtype``, shifted, padded, all tensors aligned as PyTorch's are."""
    kernel = getattr(triton_kernels, name)
    constants = {"SHIFT": 3, "PADDED": True, "WIDE": False, "PRECISION": "ieee", **constants}
    signature, attributes = {}, {}
    for i, parameter in enumerate(kernel.params):
        if parameter.name in constants:
            signature[parameter.name] = "constexpr"
        elif parameter.name == "scale":
            signature[parameter.name] = "fp32"
        elif parameter.do_not_specialize:
            signature[parameter.name] = "i32"
        else:
            in_precision = parameter.name in IN_PRECISION
            signature[parameter.name] = ELEMENT[dtype if in_precision else torch.float32]
            attributes[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    return compile(source, target=TARGET, options=schedule(name, dtype))


def registers(kernel: CompiledKernel) -> str:
    """Registers of a thread, and bytes of it that are spilled to local memory."""
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(kernel.asm["ptx"])
        file.flush()
        assembler = triton.knobs.nvidia.ptxas.path
        call = [assembler, "-v", "--gpu-name=sm_90a", file.name, "-o", "/dev/null"]
        said = subprocess.run(call, capture_output=True, text=True, check=True).stderr
    spilled = re.search(r"(\d+) bytes spill stores", said)
    used = re.search(r"Used (\d+) registers", said)
    return f"{used and used[1]} registers, {spilled and spilled[1]} bytes spilled"


def kernels(window_size: int) -> dict[str, dict[str, int]]:
    """Kernels that windows of this size need, with their tiles."""
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


def main() -> None:
    report = "--registers" in sys.argv
    todo = [(7, torch.bfloat16), (12, torch.bfloat16)]
    if report:
        todo += [(m, d) for m in (7, 12, 16) for d in (torch.float16, torch.float32)]
    for window_size, dtype in todo:
        for name, tile in kernels(window_size).items():
            kernel = compiled(name, dtype, M=window_size, **tile)
            figures = f" {registers(kernel)}, {kernel.metadata.shared} shared" if report else ""
            print(f"{Path(__file__).stem} {name} M={window_size} {dtype}{figures} ok", flush=True)
    if not report:
        # 64-bit offsets, and neither bias: other code paths.
        tile = kernels(7)["backward"]
        nothing = {"qkv_bias": None, "position_bias": None, "d_position_bias": None}
        compiled("backward", torch.float16, M=7, **{**tile, **nothing, "WIDE": True})
        print("backward without biases ok")


if __name__ == "__main__":
    main()
