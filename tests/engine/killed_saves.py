"""For test_checkpoint_hook.py: trainings that are killed at file operations, and resumed.

A process of its own, as it forks: a process with threads may not do so safely.
"""

import os
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace

import mmengine.runner.loops
from tiny_training import runner

from swin_dense.checkpoints import load_checkpoint
from swin_dense.engine.work_dir import find_checkpoint

mmengine.runner.loops.time = SimpleNamespace(sleep=lambda _: None)  # after each epoch
EVENTS = ("os.rename", "os.remove", "os.symlink")
NEVER = 10**9


def checkpoints(work_dir: Path) -> set[str]:
    return {path.name for path in work_dir.glob("*.pth") if not path.is_symlink()}


def run(work_dir: Path, kill_at: int = NEVER) -> int:
    """Trains in a process that ends at that operation in its folder; its exit status."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    left = kill_at

    def count(event, args):
        nonlocal left
        writes = event == "open" and ".part" in str(args[0])
        if (writes or event in EVENTS) and str(work_dir) in str(args[0]):
            left -= 1
            if left == 0:
                os._exit(9)

    sys.addaudithook(count)
    try:
        runner(work_dir, steps=6, interval=2, max_keep_ckpts=1, save_best="acc").train()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(1)


def main(folder: Path) -> None:
    killed = 0
    for kill_at in range(3, 200, 5):
        work_dir = folder / str(kill_at)
        status = run(work_dir, kill_at)
        if status == 0:
            break
        assert status == 9
        killed += 1
        whole = [load_checkpoint(work_dir / name) for name in checkpoints(work_dir)]
        done = [one["meta"]["iter"] for one in whole if "optimizer" in one]
        assert (find_checkpoint(work_dir) is None) == (not done)
        assert run(work_dir) == 0
        names = checkpoints(work_dir)
        assert "iter_6.pth" in names
        assert len([name for name in names if name.startswith("iter")]) == 1
        assert not list(work_dir.glob(".*.part"))
    assert killed > 5


if __name__ == "__main__":
    main(Path(sys.argv[1]))
