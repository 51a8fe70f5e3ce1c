"""Training on two CPU processes, started by torchrun."""

import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
REPO = HERE.parents[1]

# Written by each process at the end of its run: sums and norms of its parameters.
HOOK = """
from pathlib import Path

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class WriteWeights(Hook):
    def after_train(self, runner):
        sums = [f"{p.double().sum().item()!r} {p.double().norm().item()!r}"
                for p in runner.model.parameters()]
        path = Path(runner.work_dir) / f"rank{get_rank()}.txt"
        path.write_text(chr(10).join([type(runner.model).__name__, *sums]))
"""


def test_two_processes_train_one_model(shapes_root, tmp_path):
    (tmp_path / "write_weights.py").write_text(HOOK)
    (tmp_path / "two.py").write_text(
        f"_base_ = {str(HERE / 'tiny_segmentor.py')!r}\n"
        "custom_imports = dict(imports=['swin_dense', 'write_weights'])\n"
        "custom_hooks = [dict(type='WriteWeights')]\n"
        "train_cfg = dict(max_iters=12, val_interval=12)\n"
        "default_hooks = dict(checkpoint=dict(interval=12))\n"
        "optim_wrapper = dict(optimizer=dict(lr=1e-2))\n"
        "log_processor = dict(window_size=1)\n"
    )
    work_dir = tmp_path / "work"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-port", str(20000 + os.getpid() % 20000), REPO / "tools" / "train.py"]
    command += [tmp_path / "two.py", "--launcher", "pytorch", "--device", "cpu", "--seed", "0"]
    command += ["--data-root", shapes_root, "--work-dir", work_dir]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{REPO}{os.pathsep}{tmp_path}",
    }
    done = subprocess.run(
        [str(c) for c in command], capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert "2 processes" in done.stdout
    assert done.stdout.count("train 12/12") == 1, "only the first process shows progress"

    first, second = (work_dir / f"rank{rank}.txt" for rank in (0, 1))
    assert first.read_text() == second.read_text()
    assert first.read_text().startswith("MMDistributedDataParallel")
    (scalars,) = work_dir.glob("*/vis_data/scalars.json")
    records = [json.loads(line) for line in scalars.read_text().splitlines()]
    losses = [r["loss"] for r in records if "loss" in r]
    assert len(losses) == 12
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    assert (work_dir / "iter_12.pth").is_file()
