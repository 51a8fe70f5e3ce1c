"""The package in the environments that its users have: ``make matrix``, ``make matrix ENV=name``.

uv makes each of ENVIRONMENTS in ``.matrix/NAME``; the package's wheel is installed beside what is
there, and must not change it; then the checks run, with the tests and tools of this folder. What
was found is in ``.matrix/NAME.json``, the output in ``NAME.log``, a table in docs/environments.md.
"""

import argparse
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
MATRIX = REPO / ".matrix"
WORK = MATRIX / "work"  # data and results of the trainings
DOCUMENT = REPO / "docs/environments.md"

OPENMMLAB = "mmengine==0.10.7 setuptools<82"
DET = "mmdet==3.3.0 pycocotools"
SEG = "mmsegmentation==1.2.2 ftfy regex"
LITE = f"{OPENMMLAB} mmcv-lite==2.1.0"
# OpenCV from 4.12 on needs numpy 2. mmcv and mmdet ask for its desktop build, whose libraries a
# server lacks: the headless one is put in its place.
NUMPY_1 = "numpy==1.26.4 opencv-python<4.12"
ONEDL = "onedl-mmengine onedl-mmcv onedl-mmdetection onedl-mmsegmentation"
TESTS = "pytest hypothesis PyYAML"


@dataclass(frozen=True)
class Environment:
    """An environment: its Python, what pip installs first, and what is removed from it then."""

    python: str
    packages: str
    removed: tuple[str, ...] = ()
    # Built from its source distribution, once.
    compiled: str | None = None
    parts: tuple[str, ...] = ("detector", "segmentor")


ENVIRONMENTS = {
    "torch2.1": Environment(
        "3.10",
        f"torch==2.1.2 torchvision==0.16.2 {NUMPY_1} {OPENMMLAB} {DET} {SEG}",
        compiled="mmcv==2.1.0",
    ),
    **{
        f"torch2.4{name}": Environment(
            "3.11", f"torch==2.4.1 torchvision==0.19.1 {NUMPY_1} {LITE} {more}", parts=parts
        )
        for name, more, parts in (
            ("", f"{DET} {SEG}", ("detector", "segmentor")),
            ("-mmdet", DET, ("detector",)),
            ("-mmseg", SEG, ("segmentor",)),
        )
    },
    "torch2.6": Environment(
        "3.12", f"torch==2.6.0 torchvision==0.21.0 numpy==2.2.6 {LITE} {DET} {SEG}"
    ),
    "onedl": Environment(
        "3.12", f"torch==2.8.0 torchvision==0.23.0 {ONEDL}", removed=("setuptools",)
    ),
    **{
        f"pinned-{python}": Environment(python, f"-r {REPO / 'requirements.txt'}")
        for python in ("3.10", "3.11", "3.12", "3.13")
    },
    "newest": Environment("3.13", f"torch torchvision numpy {LITE} {DET} {SEG}"),
}

# Attention and backbones, weights, files that are malicious, mmcv's operators.
CORE = (
    "tests/ops/window_attention/test_attention.py tests/ops/window_attention/test_cpu_attention.py "
    "tests/ops/window_attention/test_compiled_attention.py tests/ops/block/test_block_api.py "
    "tests/backbones/test_swin.py tests/backbones/test_layers.py tests/backbones/test_dispatch.py "
    "tests/checkpoints/test_loading.py tests/compat"
)
MALICIOUS = (
    "tests/compat/test_checkpoint.py tests/checkpoints/test_files.py "
    "tests/checkpoints/test_pickles.py"
)
PACKAGES = {"detector": "mmdet", "segmentor": "mmseg"}
DEMOS = {"detector": "cascade_swin_nano_shapes", "segmentor": "upernet_swin_nano_shapes"}
# One epoch of the detector, four iterations of the segmentor.
SHORT = {
    "detector": ("max_epochs=1", "val_interval=1", 1),
    "segmentor": ("max_iters=4", "val_interval=4", 4),
}
INFERENCE = """
import sys
{prepare}
from mmdet.apis import DetInferencer, inference_detector, init_detector
config, checkpoint, image = sys.argv[1:]
model = init_detector(config, checkpoint, device="cpu")
assert len(inference_detector(model, image).pred_instances)
found = DetInferencer(config, checkpoint, device="cpu")(image, no_save_pred=True)
assert found["predictions"][0]["scores"]
"""


@dataclass
class Run:
    """The checks in one environment."""

    name: str
    environment: Environment
    results: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return MATRIX / self.name

    @property
    def python(self) -> Path:
        return self.folder / "bin/python"

    def call(self, *command: object, **variables: str) -> str:
        """Output of a command, also kept in the environment's log; raises if it fails."""
        done = subprocess.run(
            [str(part) for part in command],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO), **variables},
            cwd=WORK,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        with (MATRIX / f"{self.name}.log").open("a") as log:
            log.write(f"$ {' '.join(map(str, command))}\n{done.stdout}\n")
        if done.returncode:
            lines = [line for line in done.stdout.splitlines() if line.strip()]
            raise RuntimeError(lines[-1].strip() if lines else f"exit status {done.returncode}")
        return done.stdout

    def uv(self, *arguments: object) -> str:
        return self.call("uv", "--quiet", *arguments)

    def versions(self) -> dict[str, str]:
        """What is installed."""
        lines = self.uv("pip", "freeze", "--python", self.python).splitlines()
        return dict(line.split("==") for line in lines if "==" in line)


def make(run: Run) -> None:
    """Install the environment, and the package beside it.

    Raises:
        RuntimeError: something cannot be installed, or the package changed what was there.
    """
    environment, install = run.environment, ("pip", "install", "--python", run.python)
    if run.python.exists():
        return
    run.uv("venv", "--python", environment.python, run.folder)
    try:
        if environment.compiled:
            run.uv(*install, "pip", "wheel", "ninja", "psutil", *environment.packages.split()[:4])
            run.uv(*install, compiled_wheel(run, environment.compiled))
        run.uv(*install, *environment.packages.split(), *TESTS.split(), "opencv-python-headless")
        headless = run.versions()["opencv-python-headless"]
        run.uv("pip", "uninstall", "--python", run.python, "opencv-python", *environment.removed)
        run.uv(*install, "--reinstall", "--no-deps", f"opencv-python-headless=={headless}")
        before = run.versions()
        run.uv("build", "--out-dir", MATRIX / "wheels", REPO)
        run.uv(*install, max((MATRIX / "wheels").glob("swin_dense-*.whl")))
        changed = {name for name, version in before.items() if run.versions()[name] != version}
        if changed:
            raise RuntimeError(f"installing swin-dense replaced {', '.join(sorted(changed))}")
    except RuntimeError:
        shutil.rmtree(run.folder)  # not half of it for the next time
        raise


def compiled_wheel(run: Run, requirement: str) -> Path:
    """The wheel of a package with a C++ extension, built with the environment's PyTorch."""
    if shutil.which("c++") is None:
        raise RuntimeError(f"{requirement} needs a C++ compiler")
    folder = MATRIX / "wheels" / run.name
    if not list(folder.glob("*.whl")):
        options = ("--no-deps", "--no-build-isolation", "--no-binary", ":all:", "-w", folder)
        path = f"{run.folder / 'bin'}:{os.environ['PATH']}"
        variables = {"MMCV_WITH_OPS": "1", "CFLAGS": "-O1 -g0", "PATH": path}
        run.call(run.python, "-m", "pip", "wheel", *options, requirement, **variables)
    return next(folder.glob("*.whl"))


def checks(run: Run) -> Iterator[tuple[str, list[list[object]]]]:
    """Names of the checks, and their commands."""
    parts = run.environment.parts
    tests = [run.python, "-m", "pytest", "-c", REPO / "pyproject.toml", "-p", "no:cacheprovider"]
    models = [f"import {PACKAGES[part]}.models" for part in parts]
    yield "import", [[run.python, "-c", ";".join(["import swin_dense", *models])]]
    yield "malicious files", [[*tests, *(REPO / path for path in MALICIOUS.split())]]
    if len(parts) == len(PACKAGES):
        golden = REPO / "tests/backbones/test_swin_parity.py"
        yield "golden parity", [[*tests, golden, "-k", "official or same_as_stock"]]
    for part in parts:
        yield f"{part} demo", list(demo(run, part))
        yield f"{part} stock tools", list(stock(run, part))
    if len(parts) == len(PACKAGES):
        yield "core tests", [[*tests, *(REPO / path for path in CORE.split())]]
        nodes = REPO / "tests/tools/test_two_nodes.py"
        yield "two nodes", [[*tests, "-rs", nodes]]  # of torchrun and of Slurm


def demo(run: Run, part: str) -> Iterator[list[object]]:
    """A short training of the demo, its test and predictions, with the tools."""
    tools, config = REPO / "tools", REPO / f"configs/{DEMOS[part]}.py"
    out = WORK / run.name / part
    *settings, interval = SHORT[part]
    options = [f"train_cfg.{setting}" for setting in settings]
    options = ["--cfg-options", *options, f"default_hooks.checkpoint.interval={interval}"]
    yield [run.python, tools / "make_shapes.py", "data/shapes", "--train", 16, "--val", 8]
    yield [run.python, tools / "train.py", config, "--work-dir", out, *options]
    yield [run.python, tools / "test.py", config, out / "last.pth"]
    images = WORK / "data/shapes/val2017"
    yield [run.python, tools / "predict.py", config, out / "last.pth", images, "--out", out / "p"]


def stock(run: Run, part: str) -> Iterator[list[object]]:
    """mmdet's and mmseg's own tools with the swapped backbone."""
    package = PACKAGES[part]
    (tools,) = run.folder.glob(f"lib/python*/site-packages/{package}/.mim/tools")
    config = REPO / f"tests/tools/tiny_{part}.py"
    # mmcv-lite lacks operators that mmdet imports before it reads a config.
    is_full = run.environment.compiled is not None
    start = [run.python] if is_full else [run.python, "-m", "swin_dense"]
    out = WORK / run.name / f"stock_{part}"
    scratch = ["--cfg-options", "model.backbone.init_cfg=None"]
    yield [run.python, REPO / "tools/make_shapes.py", "data/tiny", "--train", 8, "--val", 4]
    yield [*start, tools / "train.py", config, "--work-dir", out, *scratch]
    checkpoint = out / "epoch_1.pth" if part == "detector" else out / "iter_4.pth"
    yield [*start, tools / "test.py", config, checkpoint, "--work-dir", out, *scratch]
    if part == "detector":
        script = INFERENCE.format(prepare="" if is_full else "import swin_dense")
        image = WORK / "data/tiny/val2017/000000000001.jpg"
        yield [run.python, "-c", script, config, checkpoint, image]


def run_checks(name: str) -> None:
    """Make an environment and run all checks in it; keeps what was found after each of them."""
    run = Run(name, ENVIRONMENTS[name])
    WORK.mkdir(parents=True, exist_ok=True)
    (MATRIX / f"{name}.log").unlink(missing_ok=True)

    def keep(check: str, result: str) -> None:
        run.results[check] = result
        record = {"date": str(datetime.date.today()), "versions": versions, "results": run.results}
        (MATRIX / f"{name}.json").write_text(json.dumps(record, indent=1))
        print(f"{name}: {check}: {result}", flush=True)

    versions: dict[str, str] = {}
    try:
        make(run)
    except RuntimeError as error:
        keep("installation", f"failed: {error}")
        return
    versions = run.versions()
    keep("installation", "ok")
    for check, commands in checks(run):
        try:
            output = [run.call(*command) for command in commands][-1]
            passed = re.findall(r"\d+ passed(?:, \d+ skipped)?|\d+ skipped", output)
            reasons = re.findall(r"no Slurm here.*", output)
            keep(check, "; ".join((passed[-1:] or ["ok"]) + reasons))
        except RuntimeError as error:
            keep(check, f"failed: {error}")


CHECKS = (
    *("installation", "import", "malicious files", "golden parity", "core tests"),
    *("detector demo", "segmentor demo", "detector stock tools", "segmentor stock tools"),
    "two nodes",
)
SHOWN = ("torch", "numpy", "mmengine", "mmcv", "mmdet", "mmdetection", "mmsegmentation")


def applies(check: str, environment: Environment) -> bool:
    """Whether an environment has what a check is about."""
    if check in ("golden parity", "core tests", "two nodes"):  # these tests import mmdet and mmseg
        return len(environment.parts) == len(PACKAGES)
    part = check.partition(" ")[0]
    return part not in PACKAGES or part in environment.parts


def document(records: dict[str, dict]) -> str:
    """The results as docs/environments.md."""
    lines = [
        "# Environments",
        "",
        "Generated by `make matrix`, on a CPU. In each of these environments the package was",
        "installed beside what is there, and replaced none of it. Tests that are skipped need a",
        "later PyTorch, a GPU, or another package.",
        "",
        f"| environment | {' | '.join(CHECKS)} |",
        f"|---|{'---|' * len(CHECKS)}",
    ]
    failures, versions = [], []
    for name, environment in ENVIRONMENTS.items():
        record = records.get(name, {"results": {}, "versions": {}, "date": "not run"})
        found = record["results"]
        cells = [
            found.get(check, "not run").partition(":")[0] if applies(check, environment) else "-"
            for check in CHECKS
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
        failures += [f"- {name}, {c}: {r}" for c, r in found.items() if r.startswith("failed")]
        shown = [
            f"{package} {version}"
            for package, version in record["versions"].items()
            if package.removeprefix("onedl-").removesuffix("-lite") in SHOWN
        ]
        versions.append(
            f"- {name}, {record['date']}: Python {environment.python}, {', '.join(shown)}"
        )
    lines += ["", "What failed:", "", *(failures or ["- nothing"]), "", "Versions:", "", *versions]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the environments that are named, or all; the exit status says whether all passed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(ENVIRONMENTS))
    names = parser.parse_args().names or list(ENVIRONMENTS)
    if unknown := set(names) - set(ENVIRONMENTS):
        parser.error(f"no such environment: {', '.join(unknown)}; there are {list(ENVIRONMENTS)}")
    if shutil.which("uv") is None:
        parser.error("uv is missing: python -m pip install uv")
    for name in names:
        run_checks(name)
    files = {name: MATRIX / f"{name}.json" for name in ENVIRONMENTS}
    records = {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}
    DOCUMENT.write_text(document(records))
    print(DOCUMENT.read_text())
    return any("failed: " in str(records[name]["results"]) for name in names)


if __name__ == "__main__":
    sys.exit(main())
