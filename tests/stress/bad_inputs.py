"""Bad files by the hundred, given to the functions that read them: success, or one line."""

import hashlib
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import torch
from bad_files import KINDS, WHOLE, Originals
from mmengine.registry import DATASETS, init_default_scope
from processes import Child
from rounds import Round
from trainings import Trainings, Variant

from swin_dense import SwinTransformer
from swin_dense.checkpoints import TARGETS, convert, load_backbone, load_checkpoint, weights_of
from swin_dense.datasets.check import check_data
from swin_dense.engine.config.load import parse_options
from swin_dense.engine.config.prepare import load_config
from swin_dense.engine.images import UnreadableImageError, read_image
from swin_dense.errors import UserError

EXAMPLES = 40  # of a round
HANGS = 30  # seconds
MOST_MEMORY = 2 << 30  # bytes that reading may take
LONGEST_LINE = 10_000
FORBIDDEN = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn", "os.fork")


class BadInputs:
    """Each round gives one reader some examples of one kind."""

    def __init__(self, trainings: Trainings) -> None:
        self.trainings = trainings
        self.originals = originals(trainings)
        self.read = self.refused = 0

    def summary(self) -> str:
        return f"{self.refused} refused, {self.read} read"

    def play(self, one: Round) -> None:
        kind = list(KINDS)[one.number % len(KINDS)]
        one.tried, first = 0, 0
        seed = one.chance.randrange(2**31)
        one.done.append(f"{kind}, seed {seed}")
        while first < EXAMPLES:
            log = one.folder / f"from_{first}.txt"
            reader = Reader(self.originals, self.trainings, kind, one.folder, log)
            child = Child(
                lambda r=reader, f=first: r.read_all(seed, f), one.folder, f"from_{first}"
            )
            child.wait(EXAMPLES * HANGS)
            child.end()
            lines = log.read_text().splitlines() if log.exists() else []
            one.failures += [line for line in lines if not line.startswith(("begin", "ok"))]
            begun = [int(line.split()[1]) for line in lines if line.startswith("begin")]
            one.tried += len(begun)
            self.refused += sum(line.endswith(" refused") for line in lines)
            self.read += sum(line.endswith(" read") for line in lines)
            if child.status == 0 or not begun:
                if child.status:
                    one.failures.append(f"status {child.status}: {child.err[-500:]}")
                break
            first = begun[-1] + 1
            what = "hangs" if child.status == -signal.SIGALRM else f"status {child.status}"
            one.failures.append(f"{begun[-1]}: {kind}: {what}: {child.err[-300:]}")
            keep(one.folder, begun[-1])


def originals(trainings: Trainings) -> Originals:
    """The files that are made bad; trains them first."""
    models = ("detector", "segmentor")
    for model in models:
        trainings.reference(Variant(model))
    folders = {model: trainings.folder / f"first_{model}" for model in models}
    return Originals(
        canary=trainings.folder / "CODE_WAS_RUN",
        checkpoints={model: folder / "last.pth" for model, folder in folders.items()},
        annotations=trainings.data / "annotations/instances_train2017.json",
        configs={model: trainings.config(Variant(model)) for model in models},
    )


def keep(folder: Path, number: int) -> None:
    """Keeps the input of a failure."""
    shutil.copytree(folder / "input", folder / f"failed_{number}", dirs_exist_ok=True)


def examples(
    kind: str, originals: Originals, folder: Path, seed: int, count: int, use: Any
) -> None:
    """Calls ``use`` with the path of each of ``count`` inputs, always the same for a seed."""
    folder.mkdir(exist_ok=True)

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(KINDS[kind](originals, folder))
    def run(path: Path) -> None:
        use(path)

    run()


class Reader:
    """Reads inputs in a process of its own, and writes a line about each."""

    def __init__(
        self, originals: Originals, trainings: Trainings, kind: str, folder: Path, log: Path
    ) -> None:
        self.originals, self.trainings, self.kind = originals, trainings, kind
        self.folder, self.log, self.number, self.first = folder, log, -1, 0
        self.events: list[str] = []
        self.seen: set[bytes] = set()
        self.refused = False

    def read_all(self, seed: int, first: int) -> None:
        self.first = first
        limit_process(self.folder, self.events)
        examples(self.kind, self.originals, self.folder / "input", seed, EXAMPLES, self.read)

    def read(self, path: Path) -> None:
        self.number += 1
        if self.number < self.first:
            return
        digest = hashlib.sha256(path.read_bytes()).digest()
        if digest in self.seen:  # what Hypothesis draws may differ, and the file be the same
            return
        self.seen.add(digest)
        self.write(f"begin {self.number}")
        self.events.clear()
        reset_peak()
        before = peak()
        signal.alarm(HANGS)
        problem = self.problem(path)
        signal.alarm(0)
        if self.originals.canary.exists():
            self.originals.canary.unlink()
            problem = "RUNS CODE of its input"
        elif self.events:
            problem = f"does {self.events[0]}"
        elif peak() - before > MOST_MEMORY:
            problem = f"takes {(peak() - before) / 2**30:.1f} GiB"
        if problem:
            keep(self.folder, self.number)
            self.write(f"{self.number}: {self.kind}: {' '.join(problem.split())[:600]}")
        else:
            self.write(f"ok {self.number} {'refused' if self.refused else 'read'}")

    def write(self, line: str) -> None:
        with self.log.open("a") as log:
            log.write(line + "\n")

    def problem(self, path: Path) -> str | None:
        self.refused = False
        try:
            READERS[self.kind](path, self.trainings)
        except (UserError, UnreadableImageError) as error:
            self.refused = True
            return "a very long message" if len(str(error)) > LONGEST_LINE else None
        except BaseException as error:
            return f"{type(error).__name__}: {str(error)[:300]} ({place(error)})"
        return None


def place(error: BaseException) -> str:
    """Where an exception was raised, and from which of our files."""
    trace, found = error.__traceback__, []
    while trace:
        code = trace.tb_frame.f_code
        found.append(f"{Path(code.co_filename).name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return " ".join(found[-6:])


def limit_process(folder: Path, events: list[str]) -> None:
    """Notes commands that are run and files that are written elsewhere; limits the memory."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + 3 * MOST_MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    allowed = (str(folder), "/dev/", "/proc/self/")
    os.environ["TMPDIR"] = str(folder)
    import tempfile

    tempfile.tempdir = None
    owner = os.getpid()

    def hook(event: str, arguments: tuple) -> None:
        if event in FORBIDDEN and os.getpid() == owner:
            events.append(f"{event} {arguments}"[:200])
        elif event == "open" and isinstance(arguments[0], str):
            writes = arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if writes and not os.path.abspath(arguments[0]).startswith(allowed):
                events.append(f"open {arguments[0]} for writing"[:200])

    sys.addaudithook(hook)


def peak() -> int:
    """The most memory that this process had, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def read_checkpoint(path: Path, trainings: Trainings) -> None:
    checkpoint = load_checkpoint(path)
    weights_of(checkpoint)
    backbone = SwinTransformer(
        embed_dims=8, depths=(1, 2, 1, 1), num_heads=(1, 1, 2, 2), window_size=4
    )
    load_backbone(backbone, checkpoint, str(path))
    if (whole := path.with_name(WHOLE)).exists():
        right = torch.load(whole, weights_only=False)["state_dict"]
        unlike = [k for k, v in right.items() if not torch.equal(v, checkpoint["state_dict"][k])]
        assert not unlike, f"{unlike[0]} is read with other numbers"
    for name, value in backbone.named_parameters():
        assert value.isfinite().all(), f"{name} is not finite"
    for target in TARGETS:
        convert(checkpoint, target)


def read_annotations(path: Path, trainings: Trainings) -> None:
    """What the check accepts can be loaded."""
    load_data(trainings, "detector", {"ann_file": str(path)})


def read_label_map(path: Path, trainings: Trainings) -> None:
    folder = path.parent / "maps"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    first = sorted((trainings.data / "train2017").glob("*.jpg"))[0]
    (folder / first.name).symlink_to(first)
    shutil.copy(path, folder / f"{first.stem}.png")
    load_data(
        trainings,
        "segmentor",
        {
            "data_root": str(path.parent),
            "data_prefix": {"img_path": "maps", "seg_map_path": "maps"},
        },
    )


def load_data(trainings: Trainings, model: str, changes: dict[str, Any]) -> None:
    options = {f"train_dataloader.dataset.{key}": value for key, value in changes.items()}
    cfg = load_config(trainings.config(Variant(model)), options)
    check_data(cfg, splits=("train",))
    init_default_scope(cfg.default_scope)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    for index in range(len(dataset)):
        dataset[index]


def read_config_file(path: Path, trainings: Trainings) -> None:
    load_config(path)


def read_options(path: Path, trainings: Trainings) -> None:
    items = [item for item in path.read_text().split("\n") if not item.startswith("=")]
    load_config(trainings.config(Variant()), parse_options(items))


READERS: dict[str, Callable[[Path, Trainings], Any]] = {
    "checkpoints": read_checkpoint,
    "annotations": read_annotations,
    "images": lambda path, _: read_image(path),
    "label_maps": read_label_map,
    "configs": read_config_file,
    "options": read_options,
}
