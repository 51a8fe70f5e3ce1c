"""Training on two nodes, as far as torchrun can tell: two agents, each with a CPU process."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
REPO = HERE.parents[1]

# Each process writes sums and norms of its parameters at the end of its run. One of them is killed
# in the middle, once.
HOOK = """
import os
import signal
from pathlib import Path

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class WriteWeights(Hook):
    priority = "LOWEST"

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        killed = Path(runner.work_dir) / "killed.txt"
        if runner.iter == 5 and get_rank() == 1 and not killed.exists():
            killed.write_text(f"{os.getpid()}")
            os.kill(os.getpid(), signal.SIGKILL)

    def after_train(self, runner):
        sums = [f"{p.double().sum().item()!r} {p.double().norm().item()!r}"
                for p in runner.model.parameters()]
        path = Path(runner.work_dir) / f"rank{get_rank()}.txt"
        path.write_text(chr(10).join([type(runner.model).__name__, *sums]))
"""
# Restarted processes must not find what those before them wrote: docs/scaling.md.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


@pytest.fixture
def start(tmp_path):
    """Starts torchrun; in the end all that it started is ended."""
    agents = []

    def run(*words) -> subprocess.Popen:
        path = f"{REPO}{os.pathsep}{tmp_path}"
        with (tmp_path / f"agent{len(agents)}.txt").open("w") as output:
            agents.append(
                subprocess.Popen(
                    [sys.executable, "-m", "torch.distributed.run", *map(str, words)],
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **ENVIRONMENT, "PYTHONPATH": path},
                    start_new_session=True,
                )
            )
        return agents[-1]

    yield run
    for agent in agents:
        if agent.poll() is None:
            agent.terminate()  # and with it its processes
            try:
                agent.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(agent.pid, signal.SIGKILL)


def test_two_nodes_train_one_model_though_a_process_is_killed(start, shapes_root, tmp_path):
    (tmp_path / "write_weights.py").write_text(HOOK)
    (tmp_path / "two.py").write_text(
        f"_base_ = {str(HERE / 'tiny_segmentor.py')!r}\n"
        "custom_imports = dict(imports=['swin_dense', 'write_weights'])\n"
        "custom_hooks = [dict(type='WriteWeights')]\n"
        "train_cfg = dict(max_iters=12, val_interval=12)\n"
        "default_hooks = dict(checkpoint=dict(interval=4))\n"
        "optim_wrapper = dict(optimizer=dict(lr=1e-2))\n"
        "log_processor = dict(window_size=1)\n"
    )
    work_dir = tmp_path / "work"
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    command = ["--nnodes", 2, "--nproc-per-node", 1, "--max-restarts", 1, "--rdzv-backend", "c10d"]
    command += ["--rdzv-endpoint", f"localhost:{port}", "--rdzv-id", "test"]
    command += [REPO / "tools" / "train.py", tmp_path / "two.py", "--launcher", "pytorch"]
    command += ["--device", "cpu", "--seed", 0, "--data-root", shapes_root, "--work-dir", work_dir]
    agents = [start(*command), start(*command)]
    statuses = [agent.wait(300) for agent in agents]
    output = "".join((tmp_path / f"agent{i}.txt").read_text() for i in (0, 1))
    assert statuses == [0, 0], output
    assert "2 processes" in output
    assert output.count("train 12/12") == 1, "only the first process shows progress"

    first, second = (work_dir / f"rank{rank}.txt" for rank in (0, 1))
    assert first.read_text() == second.read_text()
    assert first.read_text().startswith("MMDistributedDataParallel")
    records = [
        [json.loads(line) for line in scalars.read_text().splitlines()]
        for scalars in sorted(work_dir.glob("*/vis_data/scalars.json"))
    ]
    before, after = ([r for r in run if "loss" in r] for run in records)
    assert (work_dir / "killed.txt").is_file()
    assert [r["step"] for r in after] == list(range(5, 13)), "it went on from the checkpoint"
    assert [r["step"] for r in before][:5] == list(range(1, 6))
    losses = [r["loss"] for r in before[:4] + after]
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    assert f"continuing from {work_dir / 'iter_4.pth'}" in output
    assert (work_dir / "iter_12.pth").is_file()
