"""A disk that is full, read-only or gone: one line, status 2, and what was saved is not lost."""

import ctypes
import errno
import os
import shutil
import subprocess
import time
from pathlib import Path

from kills import errors, finish
from processes import Child, one_line_error
from rounds import Failed, Round
from trainings import SLOW, Trainings, Variant, readable_checkpoints

SPACE = 256  # MiB of the disk
KINDS = ("full", "full", "full", "read-only", "forbidden", "gone")
PERMISSIONS = 0b110  # Linux's CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH


class FullDisk:
    """Takes the disk away from a training at a random moment; resumes when it is back."""

    def __init__(self, trainings: Trainings) -> None:
        self.trainings = trainings

    def skipped(self) -> str | None:
        """Why this cannot be tried here."""
        if os.geteuid() != 0:
            return "needs root, to mount a small disk"
        folder = self.trainings.folder / "mount"
        try:
            mount(folder)
            subprocess.run(["umount", folder], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            return f"cannot mount a small disk here: {error}"
        return None

    def play(self, one: Round) -> None:
        disk = one.folder / "disk"
        mount(disk)
        try:
            self._play(one, disk)
        finally:
            subprocess.run(["umount", "--lazy", disk], check=True)

    def _play(self, one: Round, disk: Path) -> None:
        chance = one.chance
        variant = Variant.draw(chance)
        variant = Variant(variant.model, variant.by_epoch, variant.workers, 1, 2, variant.keep)
        reference = self.trainings.reference(variant)
        kind, moment = chance.choice(KINDS), chance.uniform(0, reference.seconds)
        work_dir = disk / "run"
        one.done.append(f"{variant}: {kind} after {moment:.3f} s")
        if kind == "read-only":  # a disk with open files cannot be made so: one that starts
            start = self._start(variant, work_dir)
            start.wait(moment)
            start.end()
            remount(disk, "ro")
            child = self._start(variant, work_dir, "--resume")
        else:
            child = self._start(variant, work_dir, obeys=kind == "forbidden")
            child.wait(moment)
            if kind == "full":
                fill(disk / "filler", chance.choice([0, chance.randrange(1 << 22)]))
            elif kind == "forbidden":
                disk.chmod(0o555)
                if work_dir.exists():
                    work_dir.chmod(0o555)
            elif work_dir.exists():
                work_dir.rename(disk / "elsewhere")
        self._check(child, work_dir)
        self._repair(kind, disk, work_dir)
        readable_checkpoints(work_dir)
        finish([self._start(variant, work_dir, "--resume", obeys=kind == "forbidden")])
        if difference := reference.difference(work_dir):
            raise Failed(difference)

    def _start(self, variant: Variant, work_dir: Path, *flags: str, obeys: bool = False) -> Child:
        def before() -> None:
            if obeys:
                obey_permissions()

        logs = work_dir.parents[1]
        return self.trainings.start(variant, work_dir, *flags, before=before, logs=logs)[0]

    def _check(self, child: Child, work_dir: Path) -> None:
        """The training has ended well before it could notice, or with one line."""
        try:
            if child.wait(SLOW) is None:
                raise Failed("hangs")
        finally:
            child.end()
        if child.status != 0 and (problem := one_line_error(child)):
            raise Failed(f"{problem}: {errors([child])}")

    def _repair(self, kind: str, disk: Path, work_dir: Path) -> None:
        if kind == "read-only":
            remount(disk, "rw")
        (disk / "filler").unlink(missing_ok=True)
        disk.chmod(0o755)
        if kind == "forbidden" and work_dir.exists():
            work_dir.chmod(0o755)
        elsewhere = disk / "elsewhere"
        if elsewhere.exists():
            # One that goes while the training starts is made by it: nothing is lost.
            has_saved = bool(list(elsewhere.glob("*.pth")))
            if has_saved and list(work_dir.rglob("*.pth")):
                raise Failed("trains on in a new folder when its own is gone")
            shutil.rmtree(work_dir, ignore_errors=True)
            elsewhere.rename(work_dir)


def obey_permissions() -> None:
    """Lets permissions hold for this process, though it is root's."""
    libc = ctypes.CDLL(None)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc.capget(header, sets)
    sets[0] &= ~PERMISSIONS  # of those in effect
    libc.capset(header, sets)


def mount(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={SPACE}m", "tmpfs", folder]
    subprocess.run(command, check=True, capture_output=True)


def remount(disk: Path, how: str) -> None:
    """Makes a disk read-only or writable; waits for files that a killed process still holds."""
    command = ["mount", "-o", f"remount,{how}", disk]
    end = time.monotonic() + SLOW
    while subprocess.run(command, capture_output=True).returncode and time.monotonic() < end:
        time.sleep(0.1)
    subprocess.run(command, check=True)


def fill(path: Path, left: int) -> None:
    """Fills a disk but for ``left`` bytes."""
    with path.open("wb") as file:
        while True:
            disk = os.statvfs(path.parent)
            try:
                size = max(disk.f_bavail * disk.f_frsize - left, 0) + file.seek(0, os.SEEK_END)
                if size:
                    os.posix_fallocate(file.fileno(), 0, size)
                return
            except OSError as error:  # the training has written in between
                if error.errno != errno.ENOSPC:
                    raise
