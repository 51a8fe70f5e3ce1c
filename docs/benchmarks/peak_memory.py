"""Peak memory of Swin V2-T at 480x640: python peak_memory.py LIBRARY WINDOW forward|training.

LIBRARY is ours, mmpretrain, hf or torchvision. Each in a process of its own, on Linux.
"""

import sys
from pathlib import Path

import torch

from swin_dense.benchmarks.baselines import Spec, build_models

name, window, phase = sys.argv[1], int(sys.argv[2]), sys.argv[3]
spec = Spec.of_arch("v2_tiny", window, (480, 640))
model = build_models(spec, [] if name == "ours" else [name], torch.device("cpu"))[name]
model.train(phase == "training")
image = torch.randn(1, 3, *spec.size)


def status(key: str) -> float:
    """MiB of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) / 1024


before = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
for _ in range(2):
    with torch.set_grad_enabled(phase == "training"):
        outs = model(image)
    if phase == "training":
        sum(out.sum() for out in outs).backward()
        model.zero_grad()
    del outs
print(f"{name}, window {window}, {phase}: {status('VmHWM') - before:.0f} MiB above the start")
