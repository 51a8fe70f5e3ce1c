"""How often a backbone passes over memory: its kernels and their bytes, counted without a GPU."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor, nn

from swin_dense.benchmarks.baselines import OURS, Spec, build_models
from swin_dense.benchmarks.kernel_code import TARGETS, Target, check_compiler
from swin_dense.benchmarks.measurement import DTYPES
from swin_dense.benchmarks.operators import Costs, autocast, count, gradients, total, without_gpu

PHASES = ("forward", "training")
# Whose multiprocessors tell how many programs Triton kernels have, and partial sums with them.
TARGET: Target = TARGETS["sm_90"]
# The second block of each stage shifts its windows.
_BLOCK = 1

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
    machine = {"device": "counted", "name": f"counted for {TARGET.name}, no GPU"}
    return {"settings": settings, "machine": machine, "models": models}


def _count_model(model: nn.Module, run: PassesRun) -> dict[str, Any]:
    """Of a backbone on the meta device, and of a block of each of its stages."""
    with without_gpu():
        _to_cuda(model)
        image = torch.empty(run.batch, 3, *run.spec.size, device="cuda")
        blocks = [stage.blocks[_BLOCK] for stage in getattr(model, "stages", ())]
        inputs: dict[nn.Module, tuple] = {}
        for block in blocks:
            block.register_forward_pre_hook(lambda block, args: inputs.update({block: args}))
        found = {phase: _count(model, (image,), phase, run) for phase in PHASES}
        for x, *_ in inputs.values():
            x.requires_grad_()  # the image needs no gradient
        of_blocks = [
            {phase: _summary(_count(block, inputs[block], phase, run)) for phase in PHASES}
            for block in blocks
        ]
    return {
        **{phase: _summary(costs) | {"operators": _rows(costs)} for phase, costs in found.items()},
        "blocks": of_blocks,
    }


def _to_cuda(model: nn.Module) -> None:
    """Replace parameters and buffers: ``nn.Module.to`` cannot make them tensors without numbers."""
    for module in model.modules():
        for name, value in list(module.named_parameters(recurse=False)):
            empty = torch.empty(value.shape, dtype=value.dtype, device="cuda")
            setattr(module, name, nn.Parameter(empty, value.requires_grad))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype, device="cuda"))


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
            gradients(outs, leaves, [y.detach() for y in outs])

    return count(step, TARGET)


def _summary(costs: Costs) -> dict[str, Any]:
    cost = total(costs)
    return {"kernels": cost.kernels, "gb": round(cost.bytes / 1e9, 3)}


def _rows(costs: Costs) -> list[dict[str, Any]]:
    return [{"name": name, **_summary({name: cost})} for name, cost in costs.items()]


def model_name(one: Record) -> str:
    """A model of a record: ours with its ``attn_impl``, or a library with its version."""
    return f"{one['name']} {one.get('attn_impl') or one['version']}"


def passes_rows(record: Record) -> list[list[str]]:
    """Headings, and a row of cells for each backbone and block."""
    rows = [["", *(f"{phase} {what}" for phase in PHASES for what in ("kernels", "GB"))]]
    models = record["models"]
    parts = [("backbone", [(one, one) for one in models])]
    for i in range(max(len(one["blocks"]) for one in models)):
        name = f"block of stage {i + 1}"
        parts.append((name, [(one, one["blocks"][i]) for one in models if one["blocks"]]))
    for part, found in parts:
        for one, counts in found:
            cells = [text for phase in PHASES for text in _cells(counts[phase])]
            rows.append([f"{part}, {model_name(one)}", *cells])
    return rows


def _cells(counts: Record) -> tuple[str, str]:
    gigabytes = counts["gb"]
    return str(counts["kernels"]), f"{gigabytes:.0f}" if gigabytes >= 100 else f"{gigabytes:.3g}"


def operator_table(record: Record) -> Table:
    """What passes over memory: every operator of the backbones, most bytes first."""
    table = Table(title="operators", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("")
    for heading in ("kernels", "GB"):
        table.add_column(heading, justify="right")
    for one in record["models"]:
        for phase in PHASES:
            table.add_section()
            for operator in one[phase]["operators"]:
                name = f"{model_name(one)}, {phase}: {operator['name']}"
                table.add_row(name, *_cells(operator))
    return table


def passes_notes(record: Record) -> list[str]:
    """What was counted."""
    return [
        "Counted, not measured: kernels, and gigabytes (1e9 bytes) that they have to read and "
        "write, every tensor of a kernel once; reading again in a kernel and hits in the L2 cache "
        "are left out. PyTorch's own CUDA autocast casts. Blocks are the second of each stage, "
        "with shifted windows. Training: forward and backward, with a drop path rate of "
        f"{record['settings']['drop_path_rate']}."
    ]
