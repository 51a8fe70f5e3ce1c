"""Compiles the attention kernels without a GPU, and prints a line for each.

Run by ``test_triton_attention.py`` in a separate process. What kernels take of a GPU, for all
windows: ``tools/benchmark.py kernels``.
"""

from functools import partial

import torch
from hopper import HOPPER, INPUTS, entry_points

from swin_dense.benchmarks.kernel_calls import all_calls
from swin_dense.benchmarks.kernel_code import TARGETS, record_launches
from swin_dense.ops.window_attention.triton import kernels, large_kernels, launch
from swin_dense.ops.window_attention.windows import WindowSpec


def hopper() -> None:
    """Compiles every kernel."""
    compiled = set()
    for call in all_calls():
        if call.group in ("attention M=7", "attention M=12") and "shifted" in call.name:
            for name, one in call.launches(call.prepare(INPUTS), HOPPER).items():
                compiled.add(one.name)
                print(f"{name} ok", flush=True)
    assert compiled == entry_points(kernels, large_kernels)
    # 64-bit offsets, and neither bias: other code paths.
    inputs = INPUTS._replace(dtype=torch.float16)
    qkv, d_out = inputs(200, 200, 200, 288), inputs(200, 200, 200, 96)
    spec = WindowSpec(3, 7, 3, 32**-0.5)
    calls = record_launches(lambda: launch.backward(d_out, qkv, None, None, spec, 1, 1), HOPPER)
    assert [one.arguments["WIDE"] for one in calls] == [True]
    print("backward without biases ok")


def architectures() -> None:
    """Compiles for other GPUs what needs most shared memory."""
    windows_of_8 = [(name, "tf32", "backward", 8, 32) for name in TARGETS]
    for name, precision, direction, window_size, head_dim in [
        ("sm_86", "ieee", "backward", 16, 32),
        ("sm_86", "tf32", "backward", 16, 32),
        ("sm_120", "tf32", "backward", 16, 32),
        ("sm_86", "bf16", "forward", 12, 64),
        *windows_of_8,
    ]:
        target, inputs = TARGETS[name], INPUTS
        if precision != "bf16":
            torch.backends.cuda.matmul.fp32_precision = precision
            inputs = INPUTS._replace(dtype=torch.float32)
        qkv, out = (inputs(1, 20, 20, parts * head_dim) for parts in (3, 1))
        biases = inputs(3 * head_dim), inputs(1, window_size**2, window_size**2)
        call = (qkv, *biases, WindowSpec(1, window_size, 3, head_dim**-0.5))
        step = partial(launch.forward, *call)
        if direction == "backward":
            step = partial(launch.backward, out, *call, True, True)
        for one in record_launches(step, target):
            shared = one.options.shared
            # CUDA keeps 1 KiB of each program for itself.
            fits = "ok" if shared + 1024 <= target.shared_memory else "does not fit"
            print(f"{one.name} M={window_size} {precision} {name}: {shared} bytes {fits}")


if __name__ == "__main__":
    hopper()
    architectures()
