"""Compiles the fused kernels of a block for Hopper without a GPU, a line for each.

Run by ``test_triton_block.py`` in a process of its own. With ``--registers`` it compiles many more
and also prints what ptxas says of registers and local memory, and the shared memory.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel, compile

from swin_dense.fused import triton_norm_kernels
from swin_dense.fused.triton_block import norm_schedule

TARGET = GPUTarget("cuda", 90, 32)
ELEMENT = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32"}
# Tensors in the precision of products; the others are fp32, as the residual stream under autocast.
IN_PRECISION = ("y", "mn", "d_xn", "d_branch")
NORM_WIDTHS = (96, 192, 384, 768, 1024, 1536, 3072, 4096)


def compiled(kernel, dtype: torch.dtype, schedule: dict, **constants: object) -> CompiledKernel:
    """A kernel for products in ``dtype``, all tensors aligned as PyTorch's are."""
    options = {k: v for k, v in schedule.items() if k.startswith("num_")}
    constants |= {k: v for k, v in schedule.items() if k not in options}
    constants.setdefault("WIDE", False)
    signature, attributes = {}, {}
    for i, parameter in enumerate(kernel.params):
        if parameter.name in constants:
            signature[parameter.name] = "constexpr"
        elif parameter.name == "eps":
            signature[parameter.name] = "fp32"
        elif parameter.do_not_specialize:
            signature[parameter.name] = "i32"
        else:
            in_precision = parameter.name in IN_PRECISION
            signature[parameter.name] = ELEMENT[dtype if in_precision else torch.float32]
            attributes[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    return compile(source, target=TARGET, options=options)


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


def norms(channels: int) -> list[tuple]:
    """Kernels of LayerNorm with their schedules."""
    kernels = triton_norm_kernels
    return [
        (kernels.add_layer_norm, norm_schedule("forward", channels)),
        (kernels.layer_norm_backward, norm_schedule("backward", channels)),
    ]


def main() -> None:
    report = "--registers" in sys.argv
    dtypes = (torch.bfloat16, torch.float32) if report else (torch.bfloat16,)
    wanted = [
        (c, d, n) for d in dtypes for c in (NORM_WIDTHS if report else (96,)) for n in norms(c)
    ]
    for channels, dtype, (kernel, schedule) in wanted:
        if sys.argv[2:] and sys.argv[2] not in kernel.__name__:
            continue
        done = compiled(kernel, dtype, schedule, C=channels)
        figures = f" {registers(done)}, {done.metadata.shared} shared" if report else ""
        print(f"{kernel.__name__} C={channels} {dtype}{figures} ok", flush=True)
    if not report:
        # 64-bit offsets, and neither branch nor residual: other code paths.
        nothing = {"scale": None, "WIDE": True, "C": 96}
        kernel, schedule = norms(96)[0]
        compiled(kernel, torch.float16, schedule, y=None, m=None, **nothing)
        kernel, schedule = norms(96)[1]
        compiled(kernel, torch.float16, schedule, d_residual=None, d_branch=None, **nothing)
        print("norms alone ok")


if __name__ == "__main__":
    main()
