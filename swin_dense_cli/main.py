"""``swin-dense COMMAND ...``."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import version

from swin_dense_cli.parsing import OneLineParser

# The module of each command, and what it does.
COMMANDS = {
    "train": ("train", "train a detector or a segmentor"),
    "test": ("test", "test a checkpoint"),
    "predict": ("predict", "predict on images and videos"),
    "report": ("report", "write a report of a training or of predictions"),
    "compare-runs": ("compare_runs", "compare trainings"),
    "export": ("export", "export a model as ONNX file or torch.export program"),
    "reproduce": ("reproduce", "count and test the paper's rows"),
    "benchmark": ("benchmark", "measure speed and memory"),
    "convert": ("convert_checkpoint", "convert weights between layouts"),
    "convert-data": ("convert_data", "convert a data set for own_data"),
    "inspect-data": ("inspect_data", "check a data set, and show what is in it"),
    "compare-swap": ("compare_swap", "compare OpenMMLab's Swin with ours"),
    "make-shapes": ("make_shapes", "generate the data set of the demo"),
}


def make_parser() -> OneLineParser:
    """The command line up to the command, whose own parser has the rest."""
    lines = [f"  {name:<14}{text}" for name, (_, text) in COMMANDS.items()]
    parser = OneLineParser(
        prog="swin-dense",
        usage="swin-dense COMMAND ... (swin-dense COMMAND --help)",
        description="Swin Transformer for dense prediction.",
        epilog="\n".join(["commands:", *lines]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="show the version and exit")
    parser.add_argument("command", choices=list(COMMANDS), metavar="COMMAND", help="see below")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that the first word names; returns its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["--debug"]:  # it is the command's
        words = [*words[1:], "--debug"]
    if words == ["--version"]:
        print(f"swin-dense {version('swin-dense')}")
        return 0
    command = make_parser().parse_args(words[:1]).command
    module = importlib.import_module(f"swin_dense_cli.{COMMANDS[command][0]}")
    return module.main(words[1:], prog=f"swin-dense {command}")
