"""Training on two nodes, a CPU process each; one is killed, and the training goes on by itself."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from slurm_cluster import ask, job_state, missing_programs, slurm_cluster
from two_nodes_hook import KILLED_AT

from swin_dense.reports.predictions import read_predictions

HERE = Path(__file__).parent
REPO = HERE.parents[1]
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join((str(REPO), str(HERE))),
    # Restarted processes must not find what those before them wrote: docs/scaling.md.
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
}
SECONDS = 400

SBATCH = """#!/bin/bash
#SBATCH --nodes=2 --ntasks-per-node=1 --requeue --open-mode=append
srun --kill-on-bad-exit {command} && exit
[ "${{SLURM_RESTART_COUNT:-0}}" -lt 1 ] && scontrol requeue $SLURM_JOB_ID
exit 1
"""


def command(launcher: str, shapes_root: Path, work_dir: Path) -> list[str]:
    words = [REPO / "tools" / "train.py", HERE / "two_nodes.py", "--launcher", launcher]
    words += ["--device", "cpu", "--seed", 0, "--data-root", shapes_root, "--work-dir", work_dir]
    return [str(word) for word in words]


def check(work_dir: Path, output: str) -> None:
    """Both processes trained one model, until one was killed and from the last checkpoint on."""
    assert "2 processes" in output
    assert output.count("train 12/12") == 1, "only the first process shows progress"
    first, second = (work_dir / f"rank{rank}.txt" for rank in (0, 1))
    assert first.read_text() == second.read_text()
    assert first.read_text().startswith("MMDistributedDataParallel")
    assert (work_dir / "iter_12.pth").is_file()
    assert "2 runs, each resumed" in (work_dir / "report.html").read_text()
    (kept,) = work_dir.glob("*/report/predictions.npz")
    assert len({one["img_path"] for one in read_predictions(kept)}) == 4, "of both processes"

    assert (work_dir / "killed.txt").is_file()
    assert f"continuing from {work_dir / 'iter_4.pth'}" in output
    logs = sorted(work_dir.glob("*/vis_data/scalars.json"))
    records = [[json.loads(line) for line in log.read_text().splitlines()] for log in logs]
    before, after = ([r for r in run if "loss" in r] for run in records)
    assert [r["step"] for r in before][: KILLED_AT - 1] == list(range(1, KILLED_AT))
    assert [r["step"] for r in after] == list(range(5, 13))
    losses = [r["loss"] for r in before[:4] + after]
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


@pytest.fixture
def start(tmp_path):
    """Starts an agent of torchrun; in the end all that it started is ended."""
    agents = []

    def run(*words: str) -> subprocess.Popen:
        with (tmp_path / f"agent{len(agents)}.txt").open("w") as out:
            call = [sys.executable, "-m", "torch.distributed.run", *words]
            env = {**os.environ, **ENVIRONMENT}
            agents.append(
                subprocess.Popen(call, stdout=out, stderr=out, env=env, start_new_session=True)
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


def test_torchrun_with_two_agents(start, shapes_root, tmp_path):
    with socket.create_server(("localhost", 0)) as free:
        endpoint = f"localhost:{free.getsockname()[1]}"
    words = ["--nnodes=2", "--nproc-per-node=1", "--max-restarts=1"]
    words += ["--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}", "--rdzv-id=test"]
    words += command("pytorch", shapes_root, tmp_path / "work")
    agents = [start(*words), start(*words)]
    statuses = [agent.wait(SECONDS) for agent in agents]
    output = "".join((tmp_path / f"agent{i}.txt").read_text() for i in (0, 1))
    assert statuses == [0, 0], output
    check(tmp_path / "work", output)


@pytest.mark.skipif(bool(missing_programs()), reason=f"no Slurm here: {missing_programs()}")
def test_slurm_with_two_nodes(shapes_root, tmp_path):
    words = " ".join([sys.executable, *command("slurm", shapes_root, tmp_path / "work")])
    (tmp_path / "job.sh").write_text(SBATCH.format(command=words))
    with (
        tempfile.TemporaryDirectory(prefix="slurm") as folder,
        slurm_cluster(Path(folder)) as environment,
    ):
        environment |= ENVIRONMENT
        output = tmp_path / "output.txt"
        submit = ["sbatch", "--parsable", f"--output={output}", str(tmp_path / "job.sh")]
        job = ask(environment, *submit).strip()
        deadline = time.monotonic() + SECONDS
        failures = 0  # in a row: a job may count as failed until it is in the queue again
        while (state := job_state(environment, job)) != "COMPLETED" and failures < 20:
            failures = failures + 1 if state in ("FAILED", "CANCELLED") else 0
            assert time.monotonic() < deadline, (state, output.read_text())
            time.sleep(1)
    assert state == "COMPLETED", output.read_text()
    check(tmp_path / "work", output.read_text())
