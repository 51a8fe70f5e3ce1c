"""What ``tools/benchmark.py`` does: measures, shows the records and keeps them."""

import re
import shlex
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch

from swin_dense.benchmarks.backbone import (
    PHASES,
    SIDES,
    measure_backbone,
    measure_memory,
    measure_scaling,
)
from swin_dense.benchmarks.baselines import Spec, installed, parse_baselines
from swin_dense.benchmarks.compiling import PARTS, measure_compile
from swin_dense.benchmarks.detector import box_samplers, measure_detector
from swin_dense.benchmarks.evaluation import measure_evaluation
from swin_dense.benchmarks.kernel_code import parse_target
from swin_dense.benchmarks.kernels import KernelRun, find_clock, measure_kernels
from swin_dense.benchmarks.measurement import Run
from swin_dense.benchmarks.passes import PassesRun, measure_passes, operator_tables
from swin_dense.benchmarks.pipeline import measure_pipeline
from swin_dense.benchmarks.records import circumstances, machine_text, read
from swin_dense.benchmarks.report import (
    benchmarks_document,
    file_name,
    notes_of,
    save_plot,
    terminal_table,
)
from swin_dense.benchmarks.tune import measure_tune
from swin_dense.benchmarks.waits import measure_waits
from swin_dense.config_tree import is_segmentation
from swin_dense.datasets.check import check_data
from swin_dense.engine.config.prepare import load_config
from swin_dense.engine.launch import choose_device
from swin_dense.engine.paths import make_output_dir
from swin_dense.engine.terminal.console import console, notify_user, quiet_terminal
from swin_dense.errors import UserError
from swin_dense.files import write_json, write_text
from swin_dense.ops import autotune
from swin_dense.ops.torch_versions import too_old

RECORDS = Path("docs/benchmarks")
WORK = Path("work_dirs/benchmarks")
# A CPU takes a few minutes with these; the GPU's are those of the published comparisons. On a CPU
# the 512 boxes of an image that a detector trains its heads on would take far longer than the
# backbone. A segmentor needs two images to normalise what is pooled to one pixel.
_DEFAULTS: dict[str, dict[str, dict[str, Any]]] = {
    "backbone": {
        "cuda": {"size": "800x1344", "batch": 16, "dtype": "bf16", "rounds": 20},
        "cpu": {"size": "480x640", "batch": 1, "dtype": "fp32", "rounds": 5},
    },
    "detector": {
        "cuda": {"size": "800x1344", "batch": 2, "dtype": "bf16", "rounds": 20},
        "cpu": {"size": "256x384", "batch": 1, "dtype": "fp32", "rounds": 3, "boxes": 64},
    },
    "segmentor": {
        "cuda": {"size": "512x512", "batch": 16, "dtype": "bf16", "rounds": 20},
        "cpu": {"size": "128x192", "batch": 2, "dtype": "fp32", "rounds": 3},
    },
    "memory": {
        "cuda": {"size": "800x1344", "batch": 1, "dtype": "bf16"},
        "cpu": {"size": "800x1344", "batch": 1, "dtype": "bf16"},
    },
    "tune": {
        "cuda": {"size": "800x1344", "batch": 16, "dtype": "bf16"},
        "cpu": {"size": "480x640", "batch": 1, "dtype": "fp32"},
    },
    "scaling": {
        "cuda": {"sizes": SIDES["cuda"], "batch": 4, "dtype": "bf16", "rounds": 10},
        "cpu": {"sizes": SIDES["cpu"], "batch": 1, "dtype": "fp32", "rounds": 5},
    },
}


def run(args: Namespace) -> None:
    """Measures what the arguments ask for, and shows and keeps the record."""
    if reason := too_old(2, 9):
        raise UserError(f"tools/benchmark.py {reason}")
    with quiet_terminal():
        if args.kind == "report":
            _report(args)
            return
        make_output_dir(args.json.parent if args.json else WORK, "--json")
        device = choose_device(getattr(args, "device", "cpu"))
        if "config" in args:
            root = getattr(args, "data_root", None)
            args.cfg = load_config(args.config, args.cfg_options, root, from_scratch=True)
        _fill_in(args, device)
        record = {"kind": args.kind, **circumstances(device, args.command, args.remark)}
        compiling = f"compiling for {args.target}" if args.kind == "kernels" else None
        if args.kind != "passes":
            notify_user(compiling or f"measuring on {machine_text(record)}")
        record |= _MEASURE[args.kind](args, device)
        path = args.json or WORK / f"{file_name(record)}.json"
        write_json(path, record)
        console().print(terminal_table(record))
        if getattr(args, "list", False):
            console().print(*operator_tables(record))
        for note in notes_of(record):
            notify_user(note)
        picture = path.with_suffix(".png")
        drawn = f", {picture}" if save_plot(record, picture) else ""
        notify_user(f"record: {path}{drawn}")


def _fill_in(args: Namespace, device: torch.device) -> None:
    """Takes defaults that suit the device, and says them."""
    segmentor = args.kind == "detector" and is_segmentation(args.cfg)
    defaults = _DEFAULTS.get("segmentor" if segmentor else args.kind, {})
    taken = []
    for name, value in defaults.get(device.type, {}).items():
        if name == "boxes" and not box_samplers(args.cfg):
            continue
        if getattr(args, name) is None:
            setattr(args, name, value)
            text = ",".join(map(str, value)) if isinstance(value, tuple) else value
            taken.append(f"--{name} {text}")
    if getattr(args, "rounds", 1) is None:
        args.rounds = 1 if args.kind == "evaluation" else 3
    if taken:
        notify_user(f"defaults on {device.type}: {' '.join(taken)}")
    for name in ("batch", "rounds", "window_size", "images", "detections", "boxes"):
        value = getattr(args, name, None)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} {value}: expected 1 or more")
    if getattr(args, "fp32", False) and args.dtype == "fp32":
        raise UserError("--fp32 compares another precision with float32: add --dtype bf16 or fp16")
    if getattr(args, "cuda_graphs", False) and device.type != "cuda":
        raise UserError(f"--cuda-graphs has no effect on {device.type}: leave it out there")


def _backbone(args: Namespace, device: torch.device) -> dict[str, Any]:
    spec, versions, skipped = _spec(args, parse_size(args.size))
    with console().status("measuring"):
        record = measure_backbone(spec, versions, _run(args, device), args.fp32)
    record["settings"]["arch"] = args.arch
    return record | {"skipped": skipped}


def _memory(args: Namespace, device: torch.device) -> dict[str, Any]:
    size = parse_size(args.size)
    specs = {arch: _our_spec(args, arch, size) for arch in dict.fromkeys(args.arch.split(","))}
    versions, missing = installed(["mmdet"])
    if missing:
        raise UserError("mmdet is not installed: there is nothing to compare with")
    with console().status("measuring"):
        return measure_memory(specs, versions["mmdet"], Run(args.batch, args.dtype, 1, device))


def _scaling(args: Namespace, device: torch.device) -> dict[str, Any]:
    phases = args.phases.split(",")
    if unknown := set(phases) - set(PHASES):
        raise UserError(f"--phases {min(unknown)!r}: expected {' or '.join(PHASES)}")
    if len(set(args.sizes)) < 2:
        raise UserError("--sizes: an exponent needs two different sizes or more")
    spec, versions, skipped = _spec(args, (min(args.sizes),) * 2)
    with console().status("measuring"):
        record = measure_scaling(spec, versions, _run(args, device), args.sizes, phases)
    record["settings"]["arch"] = args.arch
    return record | {"skipped": skipped}


def _detector(args: Namespace, device: torch.device) -> dict[str, Any]:
    cfg = args.cfg
    with console().status("measuring"):
        record = measure_detector(cfg, parse_size(args.size), _run(args, device), args.boxes)
    task = "segmentor" if is_segmentation(cfg) else "detector"
    return record | {"config": Path(args.config).stem, "task": task, "options": _options(args)}


def _waits(args: Namespace, device: torch.device) -> dict[str, Any]:
    configs = {Path(path).stem: load_config(path, from_scratch=True) for path in args.configs}
    with console().status("counting"):
        return measure_waits(configs, parse_size(args.size), args.batch)


def _compile(args: Namespace, device: torch.device) -> dict[str, Any]:
    configs = {Path(path).stem: load_config(path, from_scratch=True) for path in args.configs}
    parts = args.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        raise UserError(f"--parts {min(unknown)!r}: expected {' or '.join(PARTS)}")
    with console().status("compiling"):
        return measure_compile(configs, parse_size(args.size), args.batch, args.backend, parts)


def _evaluation(args: Namespace, device: torch.device) -> dict[str, Any]:
    kinds = args.metric.split(",")
    if unknown := set(kinds) - {"bbox", "segm"}:
        raise UserError(f"--metric {min(unknown)!r}: expected bbox or segm")
    with console().status("measuring"):
        return measure_evaluation(args.images, args.detections, kinds, args.rounds)


def _pipeline(args: Namespace, device: torch.device) -> dict[str, Any]:
    check_data(args.cfg, splits=("train",))
    with console().status("measuring"):
        record = measure_pipeline(args.cfg, args.images, args.rounds)
    return record | {"config": Path(args.config).stem, "options": _options(args)}


def _kernels(args: Namespace, device: torch.device) -> dict[str, Any]:
    target = parse_target(args.target)
    clock = find_clock(target, args.dtype, args.rounds)
    with console().status("compiling") as status:
        settings = (args.dtype, args.only, args.sweep, clock)
        run = KernelRun(target, *settings, on_call=lambda name: status.update(f"compiling {name}"))
        return measure_kernels(run)


def _tune(args: Namespace, device: torch.device) -> dict[str, Any]:
    spec = Spec.of_arch(args.arch, args.window_size, parse_size(args.size))
    if reason := autotune.fixed_reason():
        raise UserError(f"nothing may be measured: {reason}")
    with console().status("measuring") as status:
        run = Run(args.batch, args.dtype, 1, device)
        record = measure_tune(spec, run, on_race=lambda what: status.update(f"measuring {what}"))
    notify_user(f"choices: {record.pop('folder')}")
    record["settings"]["arch"] = args.arch
    return record


def _passes(args: Namespace, device: torch.device) -> dict[str, Any]:
    impls = list(dict.fromkeys(args.attn_impl.split(",")))
    specs = [
        Spec.of_arch(args.arch, args.window_size, parse_size(args.size), attn_impl=impl)
        for impl in impls
    ]
    versions, missing = installed(parse_baselines(args.against, specs[0]))
    with console().status("counting"):
        record = measure_passes(PassesRun(specs[0], impls, versions, args.batch, args.dtype))
    record["settings"]["arch"] = args.arch
    return record | {"skipped": missing}


_MEASURE = {
    "backbone": _backbone,
    "memory": _memory,
    "scaling": _scaling,
    "detector": _detector,
    "waits": _waits,
    "compile": _compile,
    "evaluation": _evaluation,
    "pipeline": _pipeline,
    "kernels": _kernels,
    "tune": _tune,
    "passes": _passes,
}


def _options(args: Namespace) -> str:
    return " ".join(f"{key}={value}" for key, value in (args.cfg_options or {}).items())


def _spec(args: Namespace, size: tuple[int, int]) -> tuple[Spec, dict[str, str], list[str]]:
    """The model, versions of the baselines, and the names of those that are not installed."""
    spec = _our_spec(args, args.arch, size, cuda_graphs=int(args.cuda_graphs), compile=args.compile)
    versions, missing = installed(parse_baselines(args.against, spec))
    for name in missing:
        notify_user(f"{name} is not installed: skipped")
    return spec, versions, missing


def _our_spec(args: Namespace, arch: str, size: tuple[int, int], **more: Any) -> Spec:
    return Spec.of_arch(arch, args.window_size, size, attn_impl=args.attn_impl, **more)


def _run(args: Namespace, device: torch.device) -> Run:
    return Run(args.batch, args.dtype, args.rounds, device)


def parse_size(text: str) -> tuple[int, int]:
    """Height and width of 'HxW'.

    Raises:
        UserError: it is not of that form, or smaller than 32 x 32.
    """
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if not found or min(map(int, found.groups())) < 32:
        raise UserError(f"--size {text!r}: expected HEIGHTxWIDTH in pixels, such as 800x1344")
    return int(found[1]), int(found[2])


def _report(args: Namespace) -> None:
    paths = sorted(args.records or RECORDS.glob("*.json"))
    records = [read(path) for path in paths]
    make_output_dir(args.markdown.parent, "--markdown")
    plots = {}
    for i, (path, record) in enumerate(zip(paths, records, strict=True)):
        picture = path.with_suffix(".png")
        if save_plot(record, picture):
            plots[i] = f"{picture.parent.name}/{picture.name}"
    command = f"tools/benchmark.py {shlex.join(args.command)}"
    write_text(args.markdown, benchmarks_document(records, command, plots))
    notify_user(f"document: {args.markdown}")
