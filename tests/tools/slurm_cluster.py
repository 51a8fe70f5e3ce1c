"""A Slurm of two nodes on this machine, for test_two_nodes.py.

Each node is a slurmd with a loopback address as its name, so that tasks find each other by the
names of their nodes, as on a real cluster. Nothing outside of one folder is read or written, and
any user may run it. It takes munged, slurmctld, slurmd, sbatch and scontrol:
``apt-get install slurm-wlm`` on Debian and Ubuntu.
"""

import contextlib
import getpass
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")
_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))
_CONFIG = """
ClusterName=two
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/linear
MpiDefault=none
ReturnToService=2
NodeName=127.0.0.2 Port={ports[1]} CPUs=1
NodeName=127.0.0.3 Port={ports[2]} CPUs=1
PartitionName=all Nodes=ALL Default=YES
"""


def missing_programs() -> list[str]:
    """What is not installed."""
    return [name for name in PROGRAMS if shutil.which(name, path=_PATH) is None]


@contextlib.contextmanager
def slurm_cluster(folder: Path, seconds: float = 60) -> Iterator[dict[str, str]]:
    """Two idle nodes; ends all daemons at exit.

    Args:
        folder: for sockets, logs and states; a short path, as it is part of a socket's.
        seconds: how long to wait for the nodes.

    Yields:
        The environment in which Slurm's commands find them.
    """
    environment = {**os.environ, "PATH": _PATH, "SLURM_CONF": str(folder / "slurm.conf")}
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("", 0))) for _ in range(3)]
        ports = [one.getsockname()[1] for one in sockets]
    names = {"host": socket.gethostname(), "user": getpass.getuser()}
    (folder / "slurm.conf").write_text(_CONFIG.format(folder=folder, ports=ports, **names))
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o600)
    munge = [f"--{name}-file={folder}/munge.{name}" for name in ("pid", "log", "seed")]
    munge += [f"--key-file={key}", f"--socket={folder}/munge.socket"]
    daemons: list[subprocess.Popen] = []

    def start(*command: str) -> None:
        with (folder / f"{command[0]}.out").open("a") as out:
            daemons.append(subprocess.Popen(command, env=environment, stdout=out, stderr=out))

    try:
        start("munged", "--foreground", "--force", *munge)
        start("slurmctld", "-D")
        for node in ("127.0.0.2", "127.0.0.3"):
            (folder / f"spool-{node}").mkdir()
            start("slurmd", "-D", "-N", node)
        _wait_for_nodes(environment, seconds)
        yield environment
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(20)
            daemon.kill()


def _wait_for_nodes(environment: dict[str, str], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while ask(environment, "sinfo", "--noheader", "--Node", "--format=%T").split() != ["idle"] * 2:
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"no two idle nodes: see the logs beside {environment['SLURM_CONF']}"
            )
        time.sleep(0.5)


def ask(environment: dict[str, str], *command: str) -> str:
    """What a command of Slurm prints."""
    return subprocess.run(command, env=environment, capture_output=True, text=True).stdout


def job_state(environment: dict[str, str], job: str) -> str:
    """PENDING, RUNNING, COMPLETED, FAILED ...; a job that is to start later starts now."""
    state = ask(environment, "scontrol", "--oneliner", "show", "job", job)
    found = dict(word.split("=", 1) for word in state.split() if "=" in word)
    if found.get("Reason") == "BeginTime":  # Slurm starts a requeued job after two minutes
        ask(environment, "scontrol", "update", f"JobId={job}", "StartTime=now")
    return found.get("JobState", "UNKNOWN")
