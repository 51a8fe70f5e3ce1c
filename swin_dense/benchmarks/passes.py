"""How often a backbone passes over memory: its kernels and their bytes, counted without a GPU."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor, nn

from swin_dense.benchmarks.baselines import OURS, Spec, build_models
from swin_dense.benchmarks.kernel_code import TARGETS, check_compiler
from swin_dense.benchmarks.measurement import DTYPES, Rates
from swin_dense.benchmarks.operators import Costs, Gpu, count, total
from swin_dense.benchmarks.without_gpu import autocast, gradients, to_cuda, without_gpu

PHASES = ("forward", "training")
# An H200. Its rates in 16 bit were measured on one; the clock is the highest of its data sheet.
GPU = Gpu(TARGETS["sm_90"], Rates(copy=4.3e12, matmul=790e12), clock=1.98e9)
PREDICTIONS = f"""No figure of this table was measured: they are predictions for an H200, from the
kernels and bytes that were counted above. A kernel is taken to last as long as its bytes at
{GPU.rates.copy / 1e12:g} TB/s; or, if that is longer, as its matrix products at
{GPU.rates.matmul / 1e12:g} TFLOP/s (two rates that were measured on an H200), or in Triton as its
issue slots at {GPU.clock / 1e9:g} GHz. Kernels follow each other without a gap. Nothing can be
faster than this. All kernels are slower, some more than others, so a ratio of two predictions is no
measurement either.
"""

Record = Mapping[str, Any]


@dataclass(frozen=True)
class PassesRun:
    """What to count.

    Attributes:
        spec: the models; its ``attn_impl`` is not used.
        attn_impls: of ours, each counted.
        versions: of the baselines that are counted, by name.
        batch: images.
        dtype: 'fp32', or 'fp16' or 'bf16' by autocast.
    """

    spec: Spec
    attn_impls: Sequence[str]
    versions: Mapping[str, str]
    batch: int
    dtype: str


def measure_passes(run: PassesRun) -> dict[str, Any]:
    """Count kernels and bytes of forward, and of forward and backward, of blocks and backbones.

    Raises:
        UserError: kernels cannot be compiled.
    """
    check_compiler()
    spec = run.spec
    models = []
    for impl in run.attn_impls:
        built = build_models(replace(spec, attn_impl=impl), (), torch.device("meta"))[OURS]
        models.append({"name": OURS, "attn_impl": impl, **_count_model(built, run)})
    for name, version in run.versions.items():
        built = build_models(spec, (name,), torch.device("meta"))[name]
        models.append({"name": name, "version": version, **_count_model(built, run)})
    settings = {
        "size": list(spec.size),
        "window_size": spec.window_size,
        "batch": run.batch,
        "dtype": run.dtype,
        "drop_path_rate": spec.drop_path_rate,
    }
    machine = {"device": "counted", "name": f"counted for {GPU.target.name}, no GPU"}
    return {"settings": settings, "machine": machine, "models": models}


def _count_model(model: nn.Module, run: PassesRun) -> dict[str, Any]:
    """Of a backbone on the meta device, and of a block of each of its stages."""
    with without_gpu():
        to_cuda(model)
        image = torch.empty(run.batch, 3, *run.spec.size, device="cuda")
        blocks = [stage.blocks[-1] for stage in getattr(model, "stages", ())]
        inputs: dict[nn.Module, tuple] = {}
        for block in blocks:
            block.register_forward_pre_hook(lambda block, args: inputs.update({block: args}))
        found = {phase: _count(model, (image,), phase, run) for phase in PHASES}
        of_blocks = []
        for block in blocks:
            x, *others = inputs[block]
            args = (x.detach().requires_grad_(), *others)  # the image needs no gradient
            of_blocks.append({phase: _summary(_count(block, args, phase, run)) for phase in PHASES})
    record: dict[str, Any] = {"blocks": of_blocks}
    for phase, costs in found.items():
        operators = [{"name": name, **_summary({name: cost})} for name, cost in costs.items()]
        record[phase] = _summary(costs) | {"operators": operators}
        if run.dtype != "fp32":  # the rates are those of 16 bit
            record[phase]["predicted_ms"] = round(1e3 * total(costs).seconds, 2)
    return record


def _count(module: nn.Module, args: tuple, phase: str, run: PassesRun) -> Costs:
    """Kernels and bytes of a module on these arguments, of which the first may need a gradient."""
    training = phase == "training"
    module.train(training)
    leaves = [x for x in (*module.parameters(), args[0]) if x.requires_grad]

    def step() -> None:
        with torch.set_grad_enabled(training), autocast(DTYPES[run.dtype]):
            out = module(*args)
        if training:
            outs = [out] if isinstance(out, Tensor) else list(out)
            found = gradients(outs, leaves, [y.detach() for y in outs])
            for leaf, grad in zip(leaves, found, strict=True):
                if grad is not None and grad.stride() != leaf.stride():
                    grad.clone(memory_format=torch.contiguous_format)  # as leaf.grad keeps it

    return count(step, GPU)


def _summary(costs: Costs) -> dict[str, Any]:
    cost = total(costs)
    return {"kernels": cost.kernels, "gb": round(cost.bytes / 1e9, 3)}


def _model_name(one: Record) -> str:
    return f"{one['name']}, {one['attn_impl']}" if "attn_impl" in one else one["name"]


def passes_rows(record: Record) -> list[list[str]]:
    """Headings, and a row of cells for backbones and for blocks of each stage."""
    models = record["models"]
    rows = [["", *map(_model_name, models)]]
    stages = max(len(one["blocks"]) for one in models)
    for phase in PHASES:
        rows.append([f"{phase}, backbone", *(_cell(one[phase]) for one in models)])
        for i in range(stages):
            counts = (one["blocks"][i][phase] if one["blocks"] else None for one in models)
            rows.append([f"{phase}, block of stage {i + 1}", *map(_cell, counts)])
    return rows


def _cell(counts: Record | None) -> str:
    if counts is None:
        return ""
    digits = 0 if counts["gb"] >= 100 else 2 if counts["gb"] < 10 else 1
    return f"{counts['kernels']} / {counts['gb']:.{digits}f}"


def operator_tables(record: Record) -> Iterable[Table]:
    """What passes over memory, for each backbone: its operators, most bytes first."""
    for one in record["models"]:
        operators: dict[str, dict[str, Record]] = {}
        for phase in reversed(PHASES):
            for operator in one[phase]["operators"]:
                operators.setdefault(operator["name"], {})[phase] = operator
        table = Table(title=_model_name(one), title_justify="left", box=SIMPLE_HEAD)
        table.add_column("kernels / GB")
        for phase in PHASES:
            table.add_column(phase, justify="right", no_wrap=True)
        for name, counts in operators.items():
            table.add_row(name, *(_cell(counts.get(phase)) for phase in PHASES))
        yield table


def passes_notes(record: Record) -> list[str]:
    """What was counted."""
    return [
        "Counted, not measured: kernels / gigabytes (1e9 bytes) that they have to read and write, "
        "every tensor of a kernel once; what is read again from a cache is left out. "
        "PyTorch's CUDA autocast chooses precisions. Where PyTorch's libraries split a matrix "
        "product or a sort into several kernels, one is counted. The block of a stage is its "
        "last, whose windows are shifted. Training is forward and backward, with a drop path "
        f"rate of {record['settings']['drop_path_rate']:g}."
    ]


def prediction_rows(records: Iterable[Record]) -> list[list[str]]:
    """Headings, and a row of cells for each backbone in records of passes."""
    rows = [["", *(text for phase in PHASES for text in (f"{phase} ms", "times as fast as mmdet"))]]
    for record in records:
        settings = record["settings"]
        size = "{}x{}".format(*settings["size"])
        case = f"{settings['arch']}, {size}, batch {settings['batch']}, {settings['dtype']}"
        known = [one for one in record["models"] if "predicted_ms" in one["forward"]]
        baseline = next((one for one in known if one["name"] == "mmdet"), None)
        for one in known:
            row = [f"{case}: {_model_name(one)}"]
            for phase in PHASES:
                time = one[phase]["predicted_ms"]
                ratio = f"{baseline[phase]['predicted_ms'] / time:.1f}" if baseline else ""
                row += [f"{time:.1f}", ratio]
            rows.append(row)
    return rows
