"""Tiny trainings of seconds that have all that a long one has, and their exact comparison."""

import functools
import os
import random
import socket
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from processes import Child, preload

from swin_dense.datasets.shapes import ShapesSpec, write_shapes
from swin_dense_cli.train import main as train

TOOLS = Path(__file__).parents[1] / "tools"
COMPARED = ("state_dict", "ema_state_dict", "optimizer", "param_schedulers")
SLOW = 300  # seconds that no training of this size takes
IMAGES, BATCH, EPOCHS = 8, 2, 3


@dataclass(frozen=True)
class Variant:
    """A kind of training."""

    model: str = "detector"
    by_epoch: bool = True
    workers: int = 0
    processes: int = 1
    save_every: int | None = None  # iterations
    keep: int = 2  # checkpoints
    accumulate: int = 1

    @classmethod
    def draw(cls, chance: random.Random) -> "Variant":
        return cls(
            model=chance.choice(["detector", "segmentor"]),
            by_epoch=chance.choice([True, False]),
            workers=chance.choice([0, 0, 2]),
            processes=chance.choice([1, 1, 1, 2]),
            save_every=chance.choice([None, 2, 3]),
            keep=chance.choice([1, 2, -1]),
            accumulate=chance.choice([1, 1, 2]),
        )

    def __str__(self) -> str:
        return " ".join(f"{key}={value}" for key, value in asdict(self).items())


@dataclass
class Trainings:
    """Trains variants in a folder, which gets their data, configs and uninterrupted runs."""

    folder: Path
    _references: dict[Variant, "Reference"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.data = self.folder / "tiny"
        write_shapes(self.data, ShapesSpec(train=IMAGES, val=2, size=64))
        for model in ("detector", "segmentor"):
            modules = self.folder / f"{model}.modules"
            child = Child(lambda m=model, f=modules: self._list_modules(m, f), self.folder, model)
            assert child.wait(SLOW) == 0, child.err
            preload(modules.read_text())

    def _list_modules(self, model: str, file: Path) -> int:
        import sys

        status = train(self.arguments(Variant(model), self.folder / f"first_{model}"))
        file.write_text("\n".join(sys.modules))
        return status

    def config(self, variant: Variant, **more: Any) -> Path:
        """The config file of a variant; ``more`` are settings by dotted key."""
        name = zlib.crc32(f"{variant} {more}".encode())
        path = self.folder / f"config_{name:08x}.py"
        if not path.exists():
            cfg = base_config(variant.model).copy()
            cfg.merge_from_dict(settings(variant, self.data) | more)
            cfg.dump(path)
        return path

    def arguments(self, variant: Variant, work_dir: Path, *flags: str, **more: Any) -> list[str]:
        """The command line of a training."""
        line = [str(self.config(variant, **more)), "--work-dir", str(work_dir), "--from-scratch"]
        line += ["--seed", "7", "--device", "cpu", "--no-report"]
        if variant.save_every:
            line += ["--save-every", str(variant.save_every)]
        if variant.accumulate > 1:
            line += ["--accumulate", str(variant.accumulate)]
        if variant.processes > 1:
            line += ["--launcher", "pytorch"]
        return [*line, *flags]

    def start(
        self,
        variant: Variant,
        work_dir: Path,
        *flags: str,
        before: Callable[[], None] = lambda: None,
        logs: Path | None = None,
        **more: Any,
    ) -> list[Child]:
        """Starts the processes of a training, which call ``before`` first."""
        line = self.arguments(variant, work_dir, *flags, **more)
        logs = logs or work_dir.parent
        count = len(list(logs.glob(f"{work_dir.name}-*.err")))

        def call() -> int:
            before()
            return train(line)

        port = str(free_port())
        environment = [
            {} if variant.processes == 1 else process_environment(rank, variant.processes, port)
            for rank in range(variant.processes)
        ]
        return [
            Child(call, logs, f"{work_dir.name}-{count + rank}", variables)
            for rank, variables in enumerate(environment)
        ]

    def reference(self, variant: Variant) -> "Reference":
        """What a training that nothing interrupts ends with, and the seconds it takes.

        How often it saves makes no difference.
        """
        variant = replace(variant, save_every=None, keep=2)
        if variant not in self._references:
            folder = self.folder / f"reference_{len(self._references)}"
            children = self.start(variant, folder)
            for child in children:
                if child.wait(SLOW) != 0:
                    raise RuntimeError(f"{variant}: status {child.status}: {child.err[-3000:]}")
            seconds = max(child.seconds for child in children)
            self._references[variant] = Reference(seconds, final_state(folder))
        return self._references[variant]


@dataclass
class Reference:
    """An uninterrupted training: the seconds that it took, and its final state."""

    seconds: float
    state: dict[str, Any]

    def difference(self, work_dir: Path) -> str | None:
        """How a training's final state differs from this one; None: not in a bit."""
        try:
            other = final_state(work_dir)
        except Exception as error:
            return f"no final state: {error}"
        if other.keys() != self.state.keys():
            return f"other entries: {sorted(other.keys() ^ self.state.keys())[:3]}"
        unlike = [key for key, value in self.state.items() if not same(value, other[key])]
        return f"{len(unlike)} of {len(other)} values differ, first {unlike[0]}" if unlike else None


@functools.cache
def base_config(model: str) -> Config:
    return Config.fromfile(TOOLS / f"tiny_{model}.py")


def settings(variant: Variant, data: Path) -> dict[str, Any]:
    """The settings of a variant: EMA, drop path, a schedule by iterations, short loops."""
    steps = EPOCHS * IMAGES // BATCH // variant.processes
    hook, by_steps = "default_hooks.checkpoint", {"by_epoch": False}
    sampler = "DefaultSampler" if variant.by_epoch else "InfiniteSampler"
    found: dict[str, Any] = {
        "train_dataloader.batch_size": BATCH,
        "train_dataloader.num_workers": variant.workers,
        "train_dataloader.persistent_workers": variant.workers > 0,
        "train_dataloader.sampler.type": sampler,
        "model.backbone.drop_path_rate": 0.3,
        "custom_hooks": [{"type": "EMAHook", "momentum": 0.1}],
        "param_scheduler": [
            {**by_steps, "type": "LinearLR", "start_factor": 0.1, "begin": 0, "end": 4},
            {**by_steps, "type": "CosineAnnealingLR", "T_max": steps, "begin": 4, "end": steps},
        ],
        f"{hook}.by_epoch": variant.by_epoch,
        f"{hook}.interval": 1 if variant.by_epoch else 4,
        f"{hook}.max_keep_ckpts": variant.keep,
        "default_hooks.logger.log_metric_by_epoch": variant.by_epoch,
    }
    loop: dict[str, Any]
    if variant.by_epoch:
        loop = {"type": "EpochBasedTrainLoop", "max_epochs": EPOCHS, "val_interval": 2}
    else:
        loop = {"type": "IterBasedTrainLoop", "max_iters": steps, "val_interval": steps // 2 + 1}
    found["train_cfg"] = {"_delete_": True, **loop}
    for split in ("train", "val", "test"):
        found[f"{split}_dataloader.dataset.data_root"] = f"{data}/"
    if variant.model == "detector":
        for split in ("val", "test"):
            found[f"{split}_evaluator.ann_file"] = f"{data}/annotations/instances_val2017.json"
    return found


def process_environment(rank: int, count: int, port: str) -> dict[str, str]:
    """What torchrun tells a process."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def final_state(work_dir: Path) -> dict[str, Any]:
    """What a training ends with, by path: weights, averages, optimizer, schedulers, counters."""
    checkpoint = torch.load(work_dir / "last.pth", map_location="cpu", weights_only=False)
    state = {key: checkpoint[key] for key in COMPARED}
    state |= {key: checkpoint["meta"][key] for key in ("epoch", "iter", "seed")}
    return dict(flatten(state))


def flatten(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from flatten(value, f"{path}/{key}")
    elif isinstance(tree, list | tuple):
        for index, value in enumerate(tree):
            yield from flatten(value, f"{path}/{index}")
    else:
        yield path, tree


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return type(one) is type(other) and one == other


def readable_checkpoints(work_dir: Path) -> list[str]:
    """Names of the checkpoints in a work dir; raises if one is not whole."""
    found = []
    for path in sorted(work_dir.glob("*.pth")):
        if not os.path.islink(path):
            torch.load(path, map_location="cpu", weights_only=False)
            found.append(path.name)
    return found
