"""Trainings that are killed at random moments and resumed end as one that nothing interrupts."""

import json
import re
import signal
import time
from pathlib import Path

import torch
from processes import Child
from rounds import Failed, Round
from trainings import SLOW, Trainings, Variant

ORPHANS_END = 20  # seconds after which loader workers must have noticed that their parent is dead
STOPS = 60  # seconds in which a training that is asked to stop must have saved and ended


class Kills:
    """SIGKILL, and the signals by which clusters ask a training to stop."""

    def __init__(self, trainings: Trainings) -> None:
        self.trainings = trainings

    def play(self, one: Round) -> None:
        chance = one.chance
        variant = Variant.draw(chance)
        reference = self.trainings.reference(variant)
        one.done.append(str(variant))
        work_dir = one.folder / "run"
        for _ in range(chance.randint(1, 4)):
            children = self.trainings.start(variant, work_dir, "--resume")
            try:
                if self._interrupt(one, children, reference.seconds):
                    break
            finally:
                for child in children:
                    child.end()
        children = self.trainings.start(variant, work_dir, "--resume")
        finish(children)
        if difference := reference.difference(work_dir):
            raise Failed(difference)

    def _interrupt(self, one: Round, children: list[Child], seconds: float) -> bool:
        """Sends a signal at a random moment; returns whether the training ended before it."""
        chance = one.chance
        names = ["SIGKILL", "SIGKILL", "SIGTERM", "SIGUSR1"]
        name, moment = chance.choice(names), chance.uniform(0, seconds)
        struck = children if chance.random() < 0.5 else [chance.choice(children)]
        at_once = chance.random() < 0.5
        one.done.append(f"{name} to {len(struck)} of {len(children)} after {moment:.3f} s")
        end = time.monotonic() + moment
        statuses = [child.wait(max(end - time.monotonic(), 0)) for child in children]
        if all(status == 0 for status in statuses):
            return True
        if any(status is not None for status in statuses):
            time.sleep(1)
            if any(child.wait(0) not in (None, 0) for child in children):
                raise Failed(f"ended by itself: {[c.status for c in children]}: {errors(children)}")
        for child in struck:
            child.send(getattr(signal, name))
        for child in set(children) - set(struck):  # as launchers do when a process dies
            child.wait(0.5)
            child.send(signal.SIGTERM)
            if child.wait(STOPS) is None:
                child.send(signal.SIGKILL)
        for child in children:
            if child.wait(STOPS) is None:
                raise Failed(f"still runs {STOPS} s after {name}")
        if name != "SIGKILL":
            check_stopped(struck)
        elif not at_once and not all(child.wait_for_family(ORPHANS_END) for child in children):
            raise Failed(f"its processes live {ORPHANS_END} s after it")
        return False


def check_stopped(children: list[Child]) -> None:
    """A training that was asked to stop says how to go on, if it had begun and not ended."""
    first = children[0]
    out = first.out.replace("\r", "\n")
    if "Traceback" in first.err:
        raise Failed(f"a traceback after a signal: {errors([first])}")
    if first.status == 0 or "\ntrain " not in out or "\ncheckpoint: " in out:
        return
    if first.status not in (128 + signal.SIGTERM, 128 + signal.SIGUSR1):
        raise Failed(f"status {first.status} after a signal: {errors([first])}")
    if first.err.strip().endswith(" after the training had ended: nothing is lost"):
        return
    says = re.search(r"after iteration (\d+), saved as (\S+): .*--resume", first.err.strip())
    if says is None:
        raise Failed(f"does not say how to go on: {errors([first])}")
    saved = torch.load(says[2], map_location="cpu", weights_only=False)["meta"]["iter"]
    logged = max(logged_steps(Path(says[2]).parent), default=0)
    if not saved == int(says[1]) >= logged:
        raise Failed(f"saved iteration {saved}, says {says[1]}, logged {logged}")


def logged_steps(work_dir: Path) -> list[int]:
    """The iterations in the newest log of a training; one that was killed may have logged more."""
    files = sorted(work_dir.glob("*/vis_data/scalars.json"))[-1:]
    rows = [json.loads(row) for file in files for row in file.read_text().splitlines()]
    return [row["iter"] for row in rows if "iter" in row]


def finish(children: list[Child], timeout: float = SLOW) -> None:
    """Waits for a training that nothing interrupts; it must end with status 0."""
    try:
        for child in children:
            child.wait(timeout)
    finally:
        for child in children:
            child.end()
    if any(child.status for child in children):
        statuses = [child.status for child in children]
        raise Failed(f"a resumed training ended with {statuses}: {errors(children)}")


def errors(children: list[Child]) -> str:
    """The last lines of what children said on stderr."""
    return " / ".join(line for child in children for line in child.err.splitlines()[-3:])
