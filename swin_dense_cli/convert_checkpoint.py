"""Converts Swin weights between the layouts of OpenMMLab, the authors, timm, HF, torchvision."""

from argparse import Namespace
from collections.abc import Sequence

from swin_dense_cli.parsing import OneLineParser, run_tool

TARGETS = ("openmmlab", "official", "timm", "hf", "hf4", "hf5", "torchvision")
_EPILOG = (
    "The layout of IN is recognised; it may be wrapped, and a .safetensors file. hf writes the "
    "names of the installed transformers, hf4 those of the hub and of transformers until 5.8, hf5 "
    "those since 5.9."
)


def make_parser(prog: str | None = None) -> OneLineParser:
    """The command line."""
    parser = OneLineParser(prog=prog, description=__doc__, epilog=_EPILOG)
    parser.add_argument("source", metavar="IN", help="weights, a file or a URL")
    parser.add_argument("target", metavar="OUT", help="a new .pth or .safetensors file")
    parser.add_argument("--to", required=True, choices=TARGETS, help="layout of OUT")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    return parser


def run(args: Namespace) -> None:
    """Converts."""
    from swin_dense.commands.convert_checkpoint import convert_file

    convert_file(**vars(args))


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs the command; returns its exit status."""
    return run_tool(make_parser(prog), run, argv)
