"""Triton's compiler for Hopper on a machine without a GPU, for the tests of our kernels."""

import re
import subprocess
import tempfile
from collections.abc import Collection, Mapping
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel, compile

TARGET = GPUTarget("cuda", 90, 32)
ELEMENT = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32"}


def compiled(
    kernel: Any,
    dtype: torch.dtype,
    in_precision: Collection[str],
    constants: Mapping[str, object],
    options: Mapping[str, int],
    number: str,
    target: GPUTarget = TARGET,
) -> CompiledKernel:
    """A kernel whose tensors are aligned as PyTorch's are.

    Those named in ``in_precision`` are in ``dtype``, the others in fp32; the argument ``number`` is
    a float.
    """
    signature, attributes = {}, {}
    for i, parameter in enumerate(kernel.params):
        if parameter.name in constants:
            signature[parameter.name] = "constexpr"
        elif parameter.name == number:
            signature[parameter.name] = "fp32"
        elif parameter.do_not_specialize:
            signature[parameter.name] = "i32"
        else:
            precision = dtype if parameter.name in in_precision else torch.float32
            signature[parameter.name] = ELEMENT[precision]
            attributes[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, dict(constants), attributes)
    return compile(source, target=target, options=dict(options))


def registers(kernel: CompiledKernel) -> str:
    """Registers per thread, and bytes per thread that are spilled to local memory."""
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(kernel.asm["ptx"])
        file.flush()
        assembler = triton.knobs.nvidia.ptxas.path
        call = [assembler, "-v", "--gpu-name=sm_90a", file.name, "-o", "/dev/null"]
        said = subprocess.run(call, capture_output=True, text=True, check=True).stderr
    spilled = re.search(r"(\d+) bytes spill stores", said)
    used = re.search(r"Used (\d+) registers", said)
    return f"{used and used[1]} registers, {spilled and spilled[1]} bytes spilled"
