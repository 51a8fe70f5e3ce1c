"""Some of the bad files, given to the tools: status 0, or one line and status 2."""

import importlib
import shutil
from pathlib import Path

from bad_files import KINDS
from bad_inputs import examples, limit_process, originals
from processes import Child, one_line_error
from rounds import Failed, Round
from trainings import Trainings, Variant

# How a file gets into the tools.
WAYS = {
    "checkpoints": (
        *("resume", "resume alone", "load_from", "init_cfg"),
        *("test", "predict", "convert_checkpoint"),
    ),
    "annotations": ("train", "test"),
    "images": ("predict", "train"),
    "label_maps": ("train",),
    "configs": ("train", "test", "predict"),
    "options": ("train",),
}
PATIENCE = 180  # seconds after which a tool that is not training hangs
EXAMPLES = 12  # the last of them is used: the first ones are simple
IN_THE_MODEL = ("train_step", "val_step", "test_step")  # a bug in a model keeps its traceback


class BadRuns:
    """Each round runs a tool with one bad file."""

    def __init__(self, trainings: Trainings) -> None:
        self.trainings = trainings
        self.originals = originals(trainings)

    def play(self, one: Round) -> None:
        kind = list(KINDS)[one.number % len(KINDS)]
        way, seed = one.chance.choice(WAYS[kind]), one.chance.randrange(2**31)
        model = one.chance.choice(["detector", "segmentor"])
        one.done.append(f"{way} with bad {kind}, {model}, seed {seed}")
        events: list[str] = []

        def call() -> int:
            found: list[Path] = []
            examples(kind, self.originals, one.folder / "input", seed, EXAMPLES, found.append)
            limit_process(one.folder, events)
            tool, *line = self.command(way, kind, model, found[-1], one.folder)
            print(tool, *line, flush=True)
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

    def command(self, way: str, kind: str, model: str, path: Path, folder: Path) -> list[str]:
        """The command line that gives a tool a bad file."""
        model = {"annotations": "detector", "label_maps": "segmentor"}.get(kind, model)
        config = str(path if kind == "configs" else self.trainings.config(Variant(model)))
        weights = str(path if kind == "checkpoints" else self.originals.checkpoints[model])
        work, out = ["--work-dir", str(folder / "work")], str(folder / "out")
        options = [*self._options(way, kind, path, folder), "--device", "cpu"]
        if way == "convert_checkpoint":
            return [way, str(path), f"{out}.pth", "--to", "official"]
        if way == "test":
            return [way, config, weights, *work, *options]
        if way == "predict":
            image = path if kind == "images" else min(self.trainings.data.glob("val2017/*.jpg"))
            return [way, config, weights, str(image), "--out", out, *options]
        if way != "init_cfg":
            options.append("--from-scratch")
        if way == "resume":
            options += ["--resume", str(path)]
        elif way == "resume alone":
            (folder / "work").mkdir()
            shutil.copy(path, folder / "work/epoch_1.pth")
            (folder / "work/last_checkpoint").write_text("epoch_1.pth")
            options.append("--resume")
        return ["train", config, *work, *options]

    def _options(self, way: str, kind: str, path: Path, folder: Path) -> list[str]:
        """The values of --cfg-options that name the bad file."""
        options: list[str] = []
        if kind == "options":
            options = [o for o in path.read_text().split("\n") if not o.startswith("=")]
        elif kind == "annotations" and way == "test":
            options = [
                f"test_dataloader.dataset.ann_file={path}",
                f"test_evaluator.ann_file={path}",
            ]
        elif kind == "annotations":
            options = [f"train_dataloader.dataset.ann_file={path}"]
        elif kind in ("images", "label_maps") and way == "train":
            options = self._with_file(kind, path, folder)
        elif way == "load_from":
            options = [f"load_from={path}"]
        elif way == "init_cfg":
            place = "model.backbone.init_cfg"
            options = [f"{place}.type=Pretrained", f"{place}.checkpoint={path}"]
        return ["--cfg-options", *options] if options else []

    def _with_file(self, kind: str, path: Path, folder: Path) -> list[str]:
        """Options for a copy of the data in which the first file is the bad one."""
        data = folder / "data"
        shutil.copytree(self.trainings.data, data)
        place = "train2017" if kind == "images" else "annotations/training"
        shutil.copy(path, next(one for one in sorted((data / place).iterdir()) if one.is_file()))
        return [f"train_dataloader.dataset.data_root={data}/"]
