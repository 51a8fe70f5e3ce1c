"""Makes the choices of ``attn_impl='auto'`` ahead of time, and shows what they are made from."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from swin_dense.backbones import tuning
from swin_dense.backbones.layers import MapNorm
from swin_dense.backbones.swin import PatchMerging, SwinBlock
from swin_dense.benchmarks.backbone import PHASES
from swin_dense.benchmarks.baselines import Spec, build_ours
from swin_dense.benchmarks.measurement import Run
from swin_dense.ops import autotune, dispatch
from swin_dense.ops.autotune import Race, Result

_UNUSED = (
    "On a CPU 'auto' computes blocks as pytorch+cpu, mergings as pytorch and norms as modules, "
    "whatever these times say; only the products of linear layers are chosen by them."
)
_LEGEND = (
    "A candidate is 'modules' (plain PyTorch), or our functions by 'pytorch' or 'triton', and the "
    "attention. A block's time is that of one without and one with shifted windows. MapNorm is "
    "the norm of the patch embedding or of an output map. Chosen is the fastest, but plain modules "
    "must be faster by 3 %, in training by 10 % if they keep more for backward, Triton by 3 %, and "
    "oneDNN by 2 %."
)


def measure_tune(spec: Spec, run: Run, on_race: Callable[[str], object]) -> dict[str, Any]:
    """Measure, for every stage and both phases, who computes it the fastest; keep the choices.

    Args:
        spec: the model and the size of the images.
        run: images at a time, precision and device; its rounds have no effect.
        on_race: called with what is measured next.

    Returns:
        ``settings``, ``folder``, and ``races``: for each ``what`` was measured, what was ``chosen``
        (None if the choice has no effect on this device) and the ``candidates`` with their ``ms``
        (None if it was not timed), and ``left_out``: why, or None.
    """
    races = []
    for race, used in _races(spec, run):
        on_race(race.what)
        result = autotune.tune(race) if used else autotune.measure(race)
        races.append(_record(race, result, used))
    return {
        "settings": {
            "size": list(spec.size),
            "window_size": spec.window_size,
            "batch": run.batch,
            "dtype": run.dtype,
        },
        "folder": str(autotune.folder()),
        "races": races,
    }


def _races(spec: Spec, run: Run) -> Iterator[tuple[Race, bool]]:
    """Every race, and whether it decides anything on this device."""
    if run.device.type == "cpu" and dispatch.onednn_available():
        yield dispatch.race_of_products(backward=False), True
        yield dispatch.race_of_products(backward=True), True
    # A model that chooses nothing itself.
    model = build_ours(replace(spec, attn_impl="sdpa", cuda_graphs=0)).to(run.device)
    for phase in PHASES:
        model.train(phase == "training")
        for layer, (shape, settings) in _calls(model, spec, run).items():
            settings = settings._replace(training=phase == "training")
            race, _ = tuning.make_race(layer, shape, settings)
            yield race, run.device.type in tuning.DEVICES


def _calls(
    model: Any, spec: Spec, run: Run
) -> dict[nn.Module, tuple[tuple[int, ...], tuning.Settings]]:
    """A block, the merging and norms of every stage, with shapes and precisions of their inputs."""
    calls: dict[nn.Module, tuple[tuple[int, ...], tuning.Settings]] = {}

    def note(layer: nn.Module, inputs: Any) -> None:
        weight = next(layer.parameters())
        calls[layers[layer]] = tuple(inputs[0].shape), tuning.Settings.current(inputs[0], weight)

    layers = _layers(model)
    handles = [layer.register_forward_pre_hook(note) for layer in layers]
    with torch.no_grad(), run.precision():
        model(run.image(spec.size))
    for handle in handles:
        handle.remove()
    return calls


def _layers(model: Any) -> dict[nn.Module, nn.Module]:
    """Modules of a backbone, and what is measured for each."""
    parts = [part for stage in model.stages for part in (stage.blocks[0], stage.downsample)]
    layers: dict[nn.Module, nn.Module]
    layers = {part: part for part in parts if isinstance(part, (SwinBlock, PatchMerging))}
    maps = {model.patch_embed.norm: False}
    maps |= {getattr(model, f"norm{i}"): True for i in model.out_indices}
    layers |= {
        norm: MapNorm(norm, model.attn_impl, channels_first)
        for norm, channels_first in maps.items()
        if isinstance(norm, nn.LayerNorm)
    }
    return layers


def _record(race: Race, result: Result, used: bool) -> dict[str, Any]:
    rows = [
        {
            "name": candidate.name,
            "ms": result.ms.get(candidate.name),
            "left_out": result.left_out.get(candidate.name),
        }
        for candidate in race.candidates
    ]
    return {"what": race.what, "candidates": rows, "chosen": result.winner if used else None}


def tune_rows(record: Mapping[str, Any]) -> list[list[str]]:
    """Headings, then a row for each candidate of each race."""
    rows = [["", "candidate", "agrees", "ms", "chosen"]]
    for race in record["races"]:
        for i, one in enumerate(race["candidates"]):
            reason = one["left_out"]
            agrees = "yes" if not reason else "no" if reason.startswith("wrong") else "failed"
            ms = "" if one["ms"] is None else f"{one['ms']:.3g}"
            chosen = "chosen" if one["name"] == race["chosen"] else ""
            rows.append([race["what"] if i == 0 else "", one["name"], agrees, ms, chosen])
    return rows


def tune_notes(record: Mapping[str, Any]) -> list[str]:
    """What a reader of the table has to know."""
    left_out = [
        f"{race['what']}: {one['name']} is left out: {one['left_out']}."
        for race in record["races"]
        for one in race["candidates"]
        if one["left_out"]
    ]
    unused = [_UNUSED] if record["machine"]["device"] == "cpu" else []
    return [_LEGEND, *unused, *left_out]
