"""Counts every row of the paper's tables 2 and 3, beside the published numbers.

tools/reproduce.py                        all rows: parameters and FLOPs
tools/reproduce.py --row cascade_swin_t   one row, also timed on a GPU, and tested if
                                          its weights and data are there
tools/reproduce.py --ablation             also tables 4 to 6
tools/reproduce.py --recipes recipes.md   instead: our configs beside the official ones
"""

import datetime
import os
import shlex
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

import torch

from swin_dense import packaged
from swin_dense.analysis.ablation import StageTimes, Variant, count_variants, measure_stages
from swin_dense.analysis.evaluation import (
    evaluate_row,
    frames_per_second,
    missing_for_evaluation,
    released_weights,
    scores_table,
)
from swin_dense.analysis.machine import describe_machine
from swin_dense.analysis.paper import ROWS, Row, find_rows
from swin_dense.analysis.recipes import recipes_document
from swin_dense.analysis.reproduction import (
    Reproduced,
    as_json,
    reproduce,
    reproduction_document,
    stages_table,
    terminal_tables,
    variants_tables,
)
from swin_dense.engine.launch import choose_device
from swin_dense.engine.paths import check_checkpoint_path, make_output_dir
from swin_dense.engine.terminal.console import console, notify_user, quiet_terminal
from swin_dense.errors import UserError
from swin_dense.files import write_json, write_text

CONFIGS = packaged.CONFIGS.resolve()  # documents link to the folder at the top of a clone
# Images at a time for table 5: a GPU is not kept busy by few, a CPU not by many.
_BATCH = {"cuda": 64, "cpu": 4}


def run(args: Namespace) -> None:
    """Reports what the arguments ask for."""
    with quiet_terminal():
        if args.recipes:
            _compare_recipes(args)
            return
        rows = find_rows(args.row, CONFIGS) if args.row else list(ROWS)
        device = _check(args)
        results = _count(rows)
        for table in terminal_tables(results):
            console().print(table)
        measured = _measure(args, rows, results[0], device) if args.row else {}
        entries = [{**as_json(result), **measured} for result in results]
        variants, times, measured_on = _ablation(device) if args.ablation else ([], [], "")
        entries += [variant.as_json() for variant in variants]
        entries += [row.as_json(measured_on) for row in times]
        if args.json:
            write_json(args.json, entries)
        if args.markdown:
            text = reproduction_document(
                results,
                variants,
                times,
                command=f"tools/reproduce.py {shlex.join(args.command)}",
                configs=os.path.relpath(CONFIGS, args.markdown.resolve().parent),
                measured_on=measured_on,
            )
            write_text(args.markdown, text)


def _compare_recipes(args: Namespace) -> None:
    make_output_dir(args.recipes.parent, "--recipes")
    links = os.path.relpath(CONFIGS, args.recipes.resolve().parent)
    command = f"tools/reproduce.py {shlex.join(args.command)}"
    write_text(args.recipes, recipes_document(CONFIGS, links, command))
    notify_user(f"recipes: {args.recipes}")


def _check(args: Namespace) -> torch.device:
    """Check the arguments before the work; returns the device to measure on."""
    if not args.row and (args.checkpoint or args.data_root or args.tta):
        raise UserError("--checkpoint, --data-root and --tta are of a single row: add --row ROW")
    if args.checkpoint:
        check_checkpoint_path(args.checkpoint)
    for path, flag in ((args.json, "--json"), (args.markdown, "--markdown")):
        if path:
            make_output_dir(path.parent, flag)
    return choose_device(args.device)


def _count(rows: Sequence[Row]) -> list[Reproduced]:
    results = []
    with console().status("counting") as status:
        counting = reproduce(rows, CONFIGS)
        for row in rows:
            status.update(f"counting {row.name}")
            results.append(next(counting))
    return results


def _measure(
    args: Namespace, rows: Sequence[Row], result: Reproduced, device: torch.device
) -> dict[str, Any]:
    """Speed and scores of a row, as far as machine, weights and data allow."""
    config = CONFIGS / f"{rows[0].config}.py"
    checkpoint = args.checkpoint or released_weights(rows[0])
    found: dict[str, Any] = {}
    if device.type == "cuda":
        fps = frames_per_second(config, result.counts.image_size, device, checkpoint)
        found["fps"], found["measured_on"] = round(fps, 1), describe_machine(device)
        paper = next((f"; paper: {row.fps} on a V100" for row in rows if row.fps), "")
        notify_user(f"{fps:.1f} FPS on {found['measured_on']}, one image at a time, float32{paper}")
    else:
        notify_user("FPS: not measured, they need a GPU")
    missing = missing_for_evaluation(rows[0], CONFIGS, checkpoint, args.data_root)
    if missing or checkpoint is None:
        notify_user(f"not tested: {'; '.join(missing)}")
        return found
    how = {"data_root": args.data_root, "tta": args.tta, "device": args.device}
    scores = evaluate_row(rows[0], CONFIGS, checkpoint, **how)
    console().print(scores_table(rows, scores, args.tta))
    return {**found, "measured_scores": scores}


def _ablation(device: torch.device) -> tuple[list[Variant], list[StageTimes], str]:
    """Variants of tables 4 and 6, times of table 5, and where these were measured."""
    batch = _BATCH[device.type]
    with console().status("counting the variants of tables 4 and 6"):
        variants = list(count_variants(CONFIGS))
    for table in variants_tables(variants):
        console().print(table)
    with console().status("timing the stages of table 5"):
        times = measure_stages(device, batch)
    today = datetime.date.today().isoformat()
    threads = "" if device.type == "cuda" else "one thread, "
    measured_on = f"{describe_machine(device)}, {threads}batch {batch}, {today}"
    console().print(stages_table(times, measured_on))
    return variants, times, measured_on
