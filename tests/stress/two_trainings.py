"""Two trainings in one work dir train as if each were alone.

The second one does so in a folder of its own; with ``--resume``, it says so and ends.
"""

import time

from kills import errors
from processes import one_line_error
from rounds import Failed, Round
from trainings import SLOW, Trainings, Variant


class TwoTrainings:
    """Starts two trainings within a moment."""

    def __init__(self, trainings: Trainings) -> None:
        self.trainings = trainings

    def play(self, one: Round) -> None:
        chance = one.chance
        variant = Variant.draw(chance)
        reference = self.trainings.reference(variant)
        pause = chance.choice(
            [0.0, chance.uniform(0, 0.1), chance.uniform(0, reference.seconds / 2)]
        )
        flags = ["--resume"] if chance.random() < 0.5 else []
        one.done.append(f"{variant}: the second {pause:.3f} s later, {flags}")
        work_dir = one.folder / "run"
        first = self.trainings.start(variant, work_dir, *flags)
        time.sleep(pause)
        second = self.trainings.start(variant, work_dir, *flags)
        try:
            for child in first + second:
                child.wait(SLOW)
        finally:
            for child in first + second:
                child.end()
        groups = sorted((first, second), key=lambda group: max(abs(c.status or 0) for c in group))
        if any(child.status != 0 for child in groups[0]):
            raise Failed(f"neither trained: {errors(first)} | {errors(second)}")
        if not flags:
            folders = [work_dir, work_dir.with_name("run_2")]
            if problems := [p for folder in folders if (p := reference.difference(folder))]:
                raise Failed(f"{problems[0]}: {errors(first)} | {errors(second)}")
            return
        if all(child.status == 0 for child in groups[1]):
            raise Failed("both trained")
        if problem := one_line_error(groups[1][0]):
            raise Failed(f"the second one: {problem}: {errors(groups[1])}")
        if difference := reference.difference(work_dir):
            raise Failed(difference)
