"""Trainings that die at every single operation on their files, then resume exactly.

Each operation of an uninterrupted training (opening for writing, renaming, removing, linking) is
killed once: before it, and for files that are opened also in the middle of what is written.
"""

import os
import random
import resource
import signal
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kills import finish
from rounds import Failed, Round
from trainings import SLOW, Trainings, Variant

EVENTS = ("os.rename", "os.remove", "os.symlink", "os.link", "os.mkdir", "os.rmdir", "os.truncate")
SAME = 2  # a log is opened again after every step: so many times are enough
VARIANTS = (
    Variant("detector", save_every=3, keep=1),
    Variant("segmentor", by_epoch=False, save_every=3, keep=2, workers=2),
    Variant("segmentor", keep=1),
    Variant("detector", by_epoch=False, keep=-1, processes=2),
)


@dataclass
class FileOperations:
    """Kills a training before, or in the midst of, its k-th operation on files of its work dir."""

    trainings: Trainings

    def __post_init__(self) -> None:
        self._points: list[tuple[Variant, int, int | None]] = []
        self._played = 0

    def play(self, one: Round) -> None:
        if not self._points:
            for variant in VARIANTS:
                self._list_points(variant)
            random.Random(0).shuffle(self._points)
        self._played += 1
        variant, number, size = self._points[one.number % len(self._points)]
        reference = self.trainings.reference(variant)
        work_dir = one.folder / "run"
        how = "before" if size is None else f"after {size} bytes of"
        one.done.append(f"{variant}: killed {how} operation {number}")
        self._die(one, variant, work_dir, number, size)
        if one.chance.random() < 0.5:  # the run that goes on dies, too
            again = one.chance.randint(1, 40)
            one.done.append(f"then before operation {again}")
            self._die(one, variant, work_dir, again, None)
        damage(one, work_dir)
        finish(self.trainings.start(variant, work_dir, "--resume"))
        if difference := reference.difference(work_dir):
            raise Failed(difference)
        if parts := sorted(path.name for path in work_dir.glob(".*.part")):
            raise Failed(f"left behind: {parts}")

    def _list_points(self, variant: Variant) -> None:
        folder = self.trainings.folder / f"operations_{len(self._points)}"
        record = folder.with_suffix(".txt")
        finish(self.trainings.start(variant, folder, before=watcher(folder, record)))
        operations = record.read_text().splitlines()
        size = max(path.stat().st_size for path in folder.glob("*.pth"))
        seen: Counter[str] = Counter()
        for number, operation in enumerate(operations, 1):
            seen[operation] += ".part" not in operation
            if seen[operation] > SAME:
                continue
            self._points.append((variant, number, None))
            if operation.startswith("open"):
                large = ".pth" in operation
                self._points.append((variant, number, number * 7919 % size if large else 1))

    def _die(
        self, one: Round, variant: Variant, work_dir: Path, number: int, size: int | None
    ) -> None:
        record = one.folder / "operations.txt"
        before = watcher(work_dir, record, number, size)
        children = self.trainings.start(variant, work_dir, "--resume", before=before)
        try:
            first = children[0]
            first.wait(SLOW)
            operations = record.read_text().splitlines() if record.exists() else []
            one.done.append(operations[-1] if operations else "it had ended")
            record.unlink(missing_ok=True)
            if first.status not in (0, -signal.SIGKILL, -signal.SIGXFSZ):
                raise Failed(f"ended with status {first.status}: {first.err[-500:]}")
        finally:
            for child in children:
                child.end()

    def summary(self) -> str:
        listed = f"{len(self._points)} points of {len(VARIANTS)} trainings"
        return f"{min(self._played, len(self._points))} of {listed}"


def watcher(
    folder: Path, record: Path, number: int | None = None, size: int | None = None
) -> Callable[[], None]:
    """What a process calls that is to die at its ``number``-th operation on files of a folder.

    Args:
        folder: its work dir.
        record: gets a line for each operation.
        number: of the operation, from 1 on.
        size: the process dies when a file gets longer than that, from the operation on; by default
            it dies before the operation.
    """

    def watch() -> None:
        if os.environ.get("RANK", "0") != "0":
            return
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
        log = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        inside, owner, count = f"{folder}", os.getpid(), 0

        def hook(event: str, arguments: tuple) -> None:
            nonlocal count
            if event == "open":
                if not arguments[2] & (os.O_WRONLY | os.O_RDWR):
                    return
            elif event not in EVENTS:
                return
            if not str(arguments[0]).startswith(inside) or os.getpid() != owner:
                return
            count += 1
            os.write(log, f"{event} {Path(arguments[0]).name}\n".encode())
            if count == number and size is None:
                os.kill(owner, signal.SIGKILL)
            elif count == number:
                resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

        sys.addaudithook(hook)

    return watch


def damage(one: Round, work_dir: Path) -> None:
    """What a crash of the machine may leave besides: parts, an empty or torn file."""
    if not work_dir.is_dir():
        return
    # Those that a training goes on from; the best one alone has no optimizer.
    whole = [p for p in work_dir.glob("*.pth") if not p.is_symlink() and p.name[:4] != "best"]
    checkpoints = sorted(whole, key=os.path.getmtime)
    kind = one.chance.choice(["none", "part", "last_checkpoint", "gone", "torn"])
    one.done.append(f"damage: {kind}")
    if kind == "part":
        (work_dir / ".epoch_1.pth.4194305.part").write_bytes(b"PK\3\4 torn")
    elif kind == "last_checkpoint":
        (work_dir / "last_checkpoint").write_bytes(b"")
    elif kind == "gone":
        (work_dir / "last_checkpoint").write_text("epoch_77.pth")
    elif kind == "torn" and len(checkpoints) > 1:
        content = checkpoints[-1].read_bytes()
        checkpoints[-1].write_bytes(content[: one.chance.randrange(len(content))])
