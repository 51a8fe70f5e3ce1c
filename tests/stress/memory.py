"""A training's memory does not grow over 500 steps."""

import os
from pathlib import Path

import numpy as np
from kills import finish
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from rounds import Failed, Round
from trainings import SLOW, Trainings, Variant

STEPS, WARM_UP = 500, 150
MOST_GROWTH = 16  # MiB over the steps after the warm-up
PAGE = os.sysconf("SC_PAGE_SIZE")


@HOOKS.register_module()
class RecordMemory(Hook):
    """Writes the resident memory of this process after each step, in MiB."""

    def __init__(self, file: str) -> None:
        self.file, self.sizes = Path(file), []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.sizes.append(f"{pages * PAGE / 2**20:.2f}")

    def after_train(self, runner) -> None:
        self.file.write_text("\n".join(self.sizes))


class Memory:
    """Trains for 500 steps, saving every 100."""

    def __init__(self, trainings: Trainings) -> None:
        self.trainings = trainings
        self.largest = 0.0

    def play(self, one: Round) -> None:
        model = ("detector", "segmentor")[one.number % 2]
        variant = Variant(model, by_epoch=False, workers=one.chance.choice([0, 2]), save_every=100)
        one.done.append(str(variant))
        file = one.folder / "memory.txt"
        more = {
            "train_cfg.max_iters": STEPS,
            "train_cfg.val_interval": STEPS,
            "custom_hooks": [
                {"type": "EMAHook", "momentum": 0.1},
                {"type": "RecordMemory", "file": str(file)},
            ],
        }
        finish(self.trainings.start(variant, one.folder / "run", **more), timeout=SLOW * 10)
        sizes = np.array(file.read_text().split(), dtype=float)[WARM_UP:]
        # The line through all sizes: single ones move by what the allocator keeps.
        growth = float(np.polyfit(np.arange(len(sizes)), sizes, 1)[0] * len(sizes))
        one.done.append(
            f"{growth:+.2f} MiB over {len(sizes)} steps, {sizes[-1]:.0f} MiB at the end"
        )
        self.largest = max(self.largest, growth)
        if growth > MOST_GROWTH:
            raise Failed(f"memory grows by {growth:.1f} MiB in {len(sizes)} steps")

    def summary(self) -> str:
        return f"largest growth {self.largest:.1f} MiB over {STEPS - WARM_UP} steps"
