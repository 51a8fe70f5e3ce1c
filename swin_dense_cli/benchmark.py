"""Measures speed and memory against other implementations, with the same weights.

tools/benchmark.py backbone           the backbone against mmdet, timm, transformers, torchvision
tools/benchmark.py memory             what it keeps for backward, of an image, and mmdet's
tools/benchmark.py scaling            time against pixels
tools/benchmark.py detector CONFIG    a training step with our backbone and with OpenMMLab's
tools/benchmark.py waits CONFIG...    where a training step waits for a GPU, found without one
tools/benchmark.py compile CONFIG...  graphs that torch.compile makes of a training step
tools/benchmark.py evaluation         COCO evaluation against mmdet's
tools/benchmark.py pipeline CONFIG    images a second of the input pipeline on one core
tools/benchmark.py kernels            what the Triton kernels take of a GPU, which need not be there
tools/benchmark.py tune               makes the choices of attn_impl='auto' ahead, and shows them
tools/benchmark.py passes             kernels and bytes of a step on a GPU, counted without one
tools/benchmark.py report             docs/benchmarks.md from the records in docs/benchmarks/
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from swin_dense_cli.parsing import OneLineParser, add_config_options, run_command

RECORDS = Path("docs/benchmarks")
DTYPES = ("fp32", "fp16", "bf16")
AGAINST = "libraries, with commas; '' for none"
PARTS = "backbone,step"
GPUS = "sm_80, sm_86, sm_89, sm_90, sm_100, sm_120"


def make_parser(prog: str | None = None) -> OneLineParser:
    """The command line."""
    summary, _, usage = (__doc__ or "").partition("\n")
    parser = OneLineParser(
        prog=prog,
        description=summary,
        epilog=usage,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="kind", required=True, metavar="COMMAND")
    _add_backbone(commands)
    _add_memory_and_tune(commands)
    _add_whole_models(commands)
    _add_evaluation_and_pipeline(commands)
    _add_kernels_and_passes(commands)
    for name in ("backbone", "scaling", "detector", "evaluation", "pipeline", "kernels"):
        commands.choices[name].add_argument(
            "--rounds", type=int, help="how often each model is timed"
        )
    commands.choices["kernels"].set_defaults(rounds=20)
    for one in commands.choices.values():
        one.add_argument("--json", metavar="FILE", type=Path, help="write the record there")
        one.add_argument("--remark", help="what else the record should say of the circumstances")
    report = commands.add_parser("report", help="the document")
    report.add_argument("records", nargs="*", type=Path, help=f"default: {RECORDS}/*.json")
    report.add_argument("--markdown", type=Path, default=RECORDS.with_suffix(".md"))
    return parser


def _add_backbone(commands: Any) -> None:
    backbone = commands.add_parser("backbone", help="against other libraries")
    scaling = commands.add_parser("scaling", help="time against pixels")
    scaling.add_argument("--sizes", metavar="S,S,...", type=_sides, help="sides of square images")
    scaling.add_argument("--phases", default="forward", help="forward, training or both: a,b")
    for one, against in ((backbone, None), (scaling, "mmdet")):
        one.add_argument("--arch", default="tiny", help="tiny, small, base, large, v2_tiny, ...")
        one.add_argument("--against", default=against, help=AGAINST)
        one.add_argument("--cuda-graphs", action="store_true", help="ours runs forward as a graph")
        one.add_argument("--compile", action="store_true", help="all of them by torch.compile")
        one.add_argument("--attn-impl", default="auto", help="of ours")
    backbone.add_argument("--fp32", action="store_true", help="time ours in float32 as well")
    _add_setting(backbone, "window_size", "size", "batch", "dtype", "device")
    _add_setting(scaling, "window_size", "batch", "dtype", "device")


def _add_memory_and_tune(commands: Any) -> None:
    memory = commands.add_parser("memory", help="what is kept for backward, of an image")
    memory.add_argument("--arch", default="tiny", help="tiny, small, base, large: a,b")
    memory.add_argument("--attn-impl", default="auto", help="of ours")
    tune = commands.add_parser("tune", help="choices of attn_impl='auto', made ahead")
    tune.add_argument("--arch", default="tiny", help="tiny, small, base or large")
    for one in (memory, tune):
        _add_setting(one, "window_size", "size", "batch", "dtype", "device")


def _add_whole_models(commands: Any) -> None:
    detector = commands.add_parser("detector", help="a whole training step")
    detector.add_argument("config", help="config of a detector or segmentor with Swin")
    detector.add_argument("--boxes", type=int, help="of each image, that train the heads")
    _add_setting(detector, "size", "batch", "dtype", "device")
    add_config_options(detector)
    waits = commands.add_parser("waits", help="where a training step waits for a GPU")
    waits.add_argument("configs", nargs="+", metavar="CONFIG", help="of detectors and segmentors")
    _add_setting(waits, "size", "batch")
    waits.set_defaults(size="256x384", batch=2)
    compiled = commands.add_parser("compile", help="graphs of a compiled training step")
    compiled.add_argument("configs", nargs="+", metavar="CONFIG", help="of detectors, segmentors")
    compiled.add_argument("--backend", default="aot_eager", help="of torch.compile")
    compiled.add_argument("--parts", default=PARTS, help="what is compiled: the backbone, the step")
    _add_setting(compiled, "size", "batch")
    compiled.set_defaults(size="64x64", batch=2)


def _add_evaluation_and_pipeline(commands: Any) -> None:
    evaluation = commands.add_parser("evaluation", help="COCO evaluation against mmdet's")
    evaluation.add_argument("--images", type=int, default=5000)
    evaluation.add_argument("--detections", type=int, default=100, help="of each image")
    evaluation.add_argument("--metric", default="bbox,segm", help="bbox, segm or both")
    pipeline = commands.add_parser("pipeline", help="images a second on one core")
    pipeline.add_argument("config", help="config whose training pipeline runs")
    pipeline.add_argument("--data-root", metavar="DIR", help="folder of the data")
    pipeline.add_argument("--images", type=int, default=100)
    add_config_options(pipeline)


def _add_kernels_and_passes(commands: Any) -> None:
    kernels = commands.add_parser("kernels", help="what kernels take of a GPU")
    kernels.add_argument("--target", default="sm_90", help=f"GPU: {GPUS}")
    kernels.add_argument("--dtype", choices=DTYPES, default="bf16", help="of products")
    kernels.add_argument("--only", default="", help="part of a kernel's name, such as 'mlp C=96'")
    kernels.add_argument("--sweep", action="store_true", help="other schedules: minutes for each")
    passes = commands.add_parser("passes", help="kernels and bytes, counted without a GPU")
    passes.add_argument("--arch", default="tiny", help="tiny, small, base or large")
    passes.add_argument("--attn-impl", default="sdpa,triton", help="of ours: a,b")
    passes.add_argument("--against", default="mmdet", help=AGAINST)
    passes.add_argument("--list", action="store_true", help="every operator too")
    _add_setting(passes, "window_size", "size", "batch", "dtype")
    passes.set_defaults(size="800x1344", batch=16, dtype="bf16")


_SETTINGS: dict[str, dict[str, Any]] = {
    "window_size": {"type": int, "default": 7, "help": "side of a window in tokens"},
    "size": {"metavar": "HxW", "help": "of the images, in pixels"},
    "batch": {"type": int, "help": "images at a time"},
    "dtype": {"choices": DTYPES, "help": "fp16 and bf16 by autocast"},
    "device": {"default": "auto", "help": "auto (a GPU if any), cpu, cuda, cuda:N"},
}


def _add_setting(parser: argparse.ArgumentParser, *names: str) -> None:
    for name in names:
        parser.add_argument(f"--{name.replace('_', '-')}", **_SETTINGS[name])


def _sides(text: str) -> tuple[int, ...]:
    sides = [side.partition("x")[0] for side in text.split(",")]
    if not all(side.isdigit() and int(side) >= 32 for side in sides):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form 512,1024,2048")
    return tuple(map(int, sides))


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs the command; returns its exit status."""
    return run_command("benchmark", make_parser(prog), argv)
