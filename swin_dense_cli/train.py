"""Trains a detector or a segmentor from a config of mmdet's or mmseg's kind."""

import argparse
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from swin_dense_cli.parsing import OneLineParser, add_run_arguments, build_parser, run_tool

PRECISIONS = ("fp32", "fp16", "bf16")


def make_parser(prog: str | None = None) -> OneLineParser:
    """The command line."""
    parser = build_parser(__doc__, prog)
    add_run_arguments(parser)
    parser.add_argument(
        "--amp",
        nargs="?",
        const="auto",
        choices=["auto", *PRECISIONS],
        help="mixed precision: bf16 where the device has it, as CPUs do, else fp16 with dynamic "
        "loss scaling; or the one named. --resume continues in that of the checkpoint",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile the backbone with torch.compile; the first steps take minutes",
    )
    parser.add_argument(
        "--auto-scale-lr",
        action="store_true",
        help="scale the learning rate to the batch size, by the config's auto_scale_lr",
    )
    _add_start_arguments(parser)
    parser.add_argument(
        "--strategy",
        choices=["ddp", "fsdp"],
        default="ddp",
        help="what the processes share: ddp the gradients, fsdp also parameters and optimizer "
        "states, for models that do not fit one GPU",
    )
    parser.add_argument(
        "--skip-bad-images",
        action="store_true",
        help="take other images instead of those that cannot be read or do not fit their "
        "annotations, and list these at the end",
    )
    _add_seed_and_report(parser)
    _add_fit_arguments(parser)
    return parser


def _add_seed_and_report(parser: OneLineParser) -> None:
    parser.add_argument("--seed", type=int, help="of the random number generators")
    parser.add_argument(
        "--report",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="write report.html into the work dir at the end",
    )


def _add_start_arguments(parser: OneLineParser) -> None:
    """Adds the flags that say what a run starts from, and what it saves."""
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="continue an earlier run: from this checkpoint, or from the latest of the work dir "
        "(without --work-dir: of all runs of this config), if there is one",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="train in the work dir although an earlier run is there, and remove what that left; "
        "otherwise this one gets a folder with a number, NAME_2",
    )
    parser.add_argument(
        "--save-every",
        type=int,
        metavar="N",
        help="save a checkpoint every N iterations too; the last two of these are kept",
    )
    parser.add_argument(
        "--weights",
        metavar="NAME|FILE|URL",
        help="fine-tune a whole detector or segmentor: coco or ade20k (what was released for this "
        "config), the name of a config, a file or a URL; heads for other classes start untrained",
    )
    parser.add_argument(
        "--from-scratch", action="store_true", help="train without pretrained weights"
    )


def _add_fit_arguments(parser: OneLineParser) -> None:
    """Adds the flags that fit a run to the data; docs/training.md has the same as config keys."""
    fit = parser.add_argument_group("fitting the run to your data, in place of the config")
    number: dict[str, Any] = {"type": int, "metavar": "N"}
    fit.add_argument("--epochs", **number, help="how often each image is trained on")
    fit.add_argument("--batch-size", **number, help="images in a batch of one process")
    fit.add_argument(
        "--accumulate",
        **number,
        help="add up the gradients of N batches for each step of the optimizer",
    )
    fit.add_argument("--lr", type=float, help="learning rate, for batches of this run")
    fit.add_argument(
        "--image-size",
        **number,
        help="short side of images in tests, in pixels; all sizes in the pipelines of training and "
        "tests change by the same factor",
    )
    fit.add_argument(
        "--ema", action="store_true", help="evaluate and save the moving average of the weights"
    )
    fit.add_argument(
        "--patience", **number, help="stop after N evaluations without a better result"
    )
    fit.add_argument(
        "--freeze", type=int, metavar="K", help="leave K stages of the backbone as they are"
    )
    fit.add_argument("--workers", **number, help="processes that load images, of each data loader")
    fit.add_argument("--tensorboard", action="store_true", help="write TensorBoard's files too")
    fit.add_argument("--wandb", action="store_true", help="log to Weights & Biases too")
    fit.add_argument(
        "--classwise", action="store_true", help="report the AP or IoU of each class too"
    )


def run(args: Namespace) -> None:
    """Trains."""
    from swin_dense.engine.train import train

    train(**vars(args))


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs the command; returns its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    for i, word in enumerate(words[:-1]):
        if word == "--amp" and words[i + 1].endswith(".py"):  # `--amp CONFIG`, as in mmdet
            words[i] = "--amp=auto"
    return run_tool(make_parser(prog), run, words)
