"""Some of the bad files, given to the tools: status 0, or one line and status 2."""

import importlib
import shutil
from pathlib import Path

from bad_files import KINDS
from bad_inputs import examples, limit_process, originals
from processes import Child, one_line_error
from rounds import Failed, Round
from trainings import Trainings, Variant

PATIENCE = 90  # seconds after which a tool that is not training hangs
EXAMPLES = 12  # the last of them is used: the first ones are simple
IN_THE_MODEL = ("train_step", "val_step", "test_step")  # a bug in a model keeps its traceback


class BadRuns:
    """Each round runs a tool with one bad file."""

    def __init__(self, trainings: Trainings) -> None:
        self.trainings = trainings
        self.originals = originals(trainings)

    def play(self, one: Round) -> None:
        kind = list(KINDS)[one.number % len(KINDS)]
        tool, seed = one.chance.choice(TOOLS[kind]), one.chance.randrange(2**31)
        model = one.chance.choice(["detector", "segmentor"])
        one.done.append(f"{tool} with bad {kind}, {model}, seed {seed}")
        events: list[str] = []

        def call() -> int:
            found: list[Path] = []
            examples(kind, self.originals, one.folder / "input", seed, EXAMPLES, found.append)
            limit_process(one.folder, events)
            line = self.command(tool, kind, model, found[-1], one.folder)
            print(*line, flush=True)
            return importlib.import_module(f"swin_dense_cli.{tool}").main(line)

        child = Child(call, one.folder, "run")
        status = child.wait(PATIENCE)
        child.end()
        if self.originals.canary.exists():
            self.originals.canary.unlink()
            raise Failed("RUNS CODE of its input")
        if status is None and "train 1/" not in child.out:
            raise Failed("hangs")
        if status in (None, 0) or any(name in child.err for name in IN_THE_MODEL):
            return
        if problem := one_line_error(child):
            raise Failed(f"{problem}: {child.err[-600:]}")

    def command(self, tool: str, kind: str, model: str, path: Path, folder: Path) -> list[str]:
        """The command line that gives a tool a bad file."""
        if kind == "annotations":
            model = "detector"
        elif kind == "label_maps":
            model = "segmentor"
        variant = Variant(model)
        config, weights = self.trainings.config(variant), self.originals.checkpoints[model]
        work, options = folder / "work", []
        if kind == "checkpoints":
            weights = path
        elif kind == "configs":
            config = path
        elif kind == "options":
            options = [o for o in path.read_text().split("\n") if not o.startswith("=")]
        elif kind == "annotations":
            split = "train" if tool == "train" else "test"
            options = [f"{split}_dataloader.dataset.ann_file={path}"]
            options += [] if split == "train" else [f"test_evaluator.ann_file={path}"]
        elif kind in ("images", "label_maps") and tool != "predict":
            options = self._with_file(kind, model, path, folder)
        more = ["--cfg-options", *options] if options else []
        if tool == "train":
            flags = ["--from-scratch", "--work-dir", str(work)]
            flags += ["--resume", str(path)] if kind == "checkpoints" else []
            return [str(config), *flags, "--device", "cpu", *more]
        if tool == "test":
            return [str(config), str(weights), "--work-dir", str(work), "--device", "cpu", *more]
        if tool == "convert_checkpoint":
            return [str(path), str(folder / "out.pth"), "--to", "official"]
        images = path if kind == "images" else sorted(self.trainings.data.glob("val2017/*.jpg"))[0]
        out = ["--out", str(folder / "out"), "--device", "cpu"]
        return [str(config), str(weights), str(images), *out, *more]

    def _with_file(self, kind: str, model: str, path: Path, folder: Path) -> list[str]:
        """Options for a copy of the data in which the first file is the bad one."""
        data = folder / "data"
        shutil.copytree(self.trainings.data, data)
        place = "train2017" if kind == "images" else "annotations/training"
        shutil.copy(path, next(one for one in sorted((data / place).iterdir()) if one.is_file()))
        return [f"train_dataloader.dataset.data_root={data}/"]


TOOLS = {
    "checkpoints": ("train", "test", "predict", "convert_checkpoint"),
    "annotations": ("train", "test"),
    "images": ("predict", "train"),
    "label_maps": ("train",),
    "configs": ("train", "test", "predict"),
    "options": ("train",),
}
