"""Generates the shapes data set that the demo configs train on.

    make_shapes data/shapes
    make_shapes DIR --train 5000 --val 500 --size 256 --seed 1

Does nothing if that data set is already there, and never changes a folder with other contents.
"""

import argparse
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from swin_dense_cli.parsing import OneLineParser, run_tool


def make_parser(prog: str | None = None) -> OneLineParser:
    """The command line; defaults are those of :class:`swin_dense.datasets.shapes.ShapesSpec`."""
    parser = OneLineParser(
        prog=prog,
        description=(__doc__ or "").splitlines()[0],
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("root", metavar="DIR", type=Path, help="folder to create")
    parser.add_argument("--train", type=int, help="training images")
    parser.add_argument("--val", type=int, help="validation images")
    parser.add_argument("--size", type=int, help="side in pixels")
    parser.add_argument("--seed", type=int)
    return parser


def run(args: Namespace) -> None:
    """Generates the data set."""
    from swin_dense.commands.make_shapes import make_shapes

    make_shapes(**vars(args))


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs the command; returns its exit status."""
    return run_tool(make_parser(prog), run, argv)
