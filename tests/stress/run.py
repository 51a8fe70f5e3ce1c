"""Campaigns against the promises of docs/reliability.md: ``make stress MINUTES=60``.

    python tests/stress/run.py --minutes 60
    python tests/stress/run.py --campaign kills --seed 3 --round 17  # one round again

The exit status says whether every round passed. Files of rounds that failed are kept. A run of all
campaigns writes docs/reliability.md.
"""

import argparse
import datetime
import functools
import os
import platform
import random
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the package of this checkout

import mmengine.config.utils
from bad_inputs import BadInputs
from bad_runs import BadRuns
from file_operations import FileOperations
from full_disk import FullDisk
from kills import Kills
from memory import Memory
from rounds import Round
from trainings import Trainings
from two_trainings import TwoTrainings

REPO = Path(__file__).resolve().parents[2]
SHOWN = 20  # failures of a campaign
DOCUMENT = REPO / "docs/reliability.md"
# What each is about, and its share of the time.
CAMPAIGNS: dict[str, tuple[Any, str, float]] = {
    "kills": (Kills, "killed or asked to stop at random moments, then resumed", 0.35),
    "file operations": (
        FileOperations,
        "killed at each operation on its files, then resumed",
        0.25,
    ),
    "bad inputs": (BadInputs, "generated bad files, given to the readers", 0.12),
    "bad runs": (BadRuns, "some of them, given to the tools", 0.08),
    "full disk": (FullDisk, "disks that are full, read-only, forbidden or gone", 0.1),
    "two trainings": (TwoTrainings, "two trainings in one work dir", 0.05),
    "memory": (Memory, "memory over 500 steps", 0.05),
}


@dataclass
class Result:
    """What a campaign found."""

    name: str
    rounds: int = 0
    tried: int = 0
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0
    note: str = ""


def run_campaign(name: str, trainings: Trainings, folder: Path, args: argparse.Namespace) -> Result:
    """Plays rounds until the campaign's time, or the wanted number, is reached."""
    result, start = Result(name), time.monotonic()
    campaign = CAMPAIGNS[name][0](trainings)
    if reason := getattr(campaign, "skipped", lambda: None)():
        result.note = f"skipped: {reason}"
        return result
    share = CAMPAIGNS[name][2] / sum(CAMPAIGNS[one][2] for one in args.campaign)
    numbers = iter([args.round] if args.round is not None else range(args.rounds))
    for number in numbers:
        if number and time.monotonic() - start > 60 * args.minutes * share:
            break
        seed = f"{args.seed} {name} {number}"
        one = Round(number, folder / f"{name.replace(' ', '_')}_{number}", random.Random(seed))
        one.play(campaign.play)
        result.rounds += 1
        result.tried += one.tried
        for failure in one.failures if len(result.failures) < SHOWN else ():
            print(f"FAILED {name}, round {number}: {failure[:2000]}", flush=True)
            print(f"  {'; '.join(one.done)}\n  files: {one.folder}", flush=True)
            print(f"  again: --campaign '{name}' --seed {args.seed} --round {number}", flush=True)
        result.failures += one.failures
        if args.verbose:
            print(f"{name} {number}: {'; '.join(one.done)}", flush=True)
        if not one.failures:
            shutil.rmtree(one.folder)
    result.seconds = time.monotonic() - start
    result.note = getattr(campaign, "summary", str)()
    return result


def line(result: Result) -> str:
    note = f" ({result.note})" if result.note else ""
    counts = f"{result.tried} tried, {len(result.failures)} failed"
    return f"{result.name}: {counts} in {result.seconds / 60:.1f} minutes{note}"


def document(results: list[Result], args: argparse.Namespace) -> str:
    """The run as a part of docs/reliability.md."""
    promises = Path(__file__).with_name("promises.md").read_text()
    minutes = sum(result.seconds for result in results) / 60
    cells = [(r.name, CAMPAIGNS[r.name][1], r.tried, len(r.failures), r.note) for r in results]
    rows = [f"| {' | '.join(map(str, row))} |" for row in cells]
    failures = [f"- {one.name}: {text[:300]}" for one in results for text in one.failures]
    return "\n".join(
        [
            promises,
            f"Recorded on {datetime.date.today()}: {minutes:.0f} minutes on {machine()}.",
            f"Command: `make stress MINUTES={args.minutes:g} SEED={args.seed}`.",
            "",
            "| campaign | what happens to a training | tried | failed | |",
            "|---|---|---|---|---|",
            *rows,
            *(["", "What failed:", "", *failures] if failures else []),
            "",
        ]
    )


def machine() -> str:
    """Processor, cores, memory and versions."""
    names = [row for row in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in row]
    processor = names[0].partition(":")[2].strip() if names else platform.machine()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    import torch

    versions = f"Python {platform.python_version()}, PyTorch {torch.__version__}"
    return f"{os.cpu_count()} cores of {processor}, {memory:.0f} GiB, {versions}"


def main() -> int:
    """Plays the campaigns; the exit status says whether all rounds passed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60, help="for all campaigns together")
    parser.add_argument("--campaign", action="append", choices=CAMPAIGNS, help="all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=10**9, help="at most, for each campaign")
    parser.add_argument("--round", type=int, help="this one alone")
    parser.add_argument("--folder", type=Path, help="for files, by default a temporary one")
    parser.add_argument("--verbose", action="store_true", help="tell of every round")
    args = parser.parse_args()
    is_whole = args.campaign is None and args.round is None
    args.campaign = args.campaign or list(CAMPAIGNS)
    folder = Path(tempfile.mkdtemp(prefix="stress_", dir=args.folder)).resolve()
    os.environ.update(OMP_NUM_THREADS="1", TMPDIR=str(folder))
    # For each `mmdet::` in a config, mmengine reads all of mmdet's metafiles: half a second.
    mmengine.config.utils.load = functools.cache(mmengine.config.utils.load)
    print(f"seed {args.seed}, files in {folder}", flush=True)
    trainings, results = Trainings(folder / "trainings"), []
    for name in args.campaign:
        results.append(run_campaign(name, trainings, folder, args))
        print(line(results[-1]), flush=True)
    if is_whole:
        DOCUMENT.write_text(document(results, args))
    failed = any(result.failures for result in results)
    if not failed:
        shutil.rmtree(folder)
    return failed


if __name__ == "__main__":
    sys.exit(main())
