"""Generates the shapes data set that the demo configs train on.

    tools/make_shapes.py data/shapes
    tools/make_shapes.py DIR --train 5000 --val 500 --size 256 --seed 1

Does nothing if that data set is already there, and never changes a folder with other contents.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from swin_dense.datasets.shapes import ShapesSpec, write_shapes
from swin_dense.engine.terminal.cli import OneLineParser, run_tool


def make_parser() -> OneLineParser:
    """The command line; its defaults are those of :class:`ShapesSpec`."""
    parser = OneLineParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", metavar="DIR", type=Path, help="folder to create")
    parser.add_argument("--train", type=int, default=ShapesSpec.train, help="training images")
    parser.add_argument("--val", type=int, default=ShapesSpec.val, help="validation images")
    parser.add_argument("--size", type=int, default=ShapesSpec.size, help="side in pixels")
    parser.add_argument("--seed", type=int, default=ShapesSpec.seed)
    return parser


def run(args: Namespace) -> None:
    """Generates the data set, or reports that it is already there."""
    spec = ShapesSpec(args.train, args.val, args.size, args.seed)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("drawing shapes", total=spec.train + spec.val)
        written = write_shapes(args.root, spec, on_image=lambda: progress.advance(task))
    state = "written to" if written else "already in"
    print(f"shapes data set ({spec.train} + {spec.val} images) {state} {args.root}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool; returns its exit status."""
    return run_tool(make_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
