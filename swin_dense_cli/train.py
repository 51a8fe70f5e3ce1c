"""Trains a detector or a segmentor from a config of mmdet's or mmseg's kind."""

import sys
from argparse import Namespace
from collections.abc import Sequence

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
        "--accumulate",
        type=int,
        metavar="N",
        help="add up the gradients of N batches for each step of the optimizer",
    )
    parser.add_argument(
        "--skip-bad-images",
        action="store_true",
        help="take other images instead of those that cannot be read or do not fit their "
        "annotations, and list these at the end",
    )
    parser.add_argument("--seed", type=int, help="of the random number generators")
    return parser


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
