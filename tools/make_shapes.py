"""Generate the shapes data set that the demo configs train on.

tools/make_shapes.py data/shapes
tools/make_shapes.py DIR --train 5000 --val 500 --size 256 --seed 1
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from swin_dense.datasets.shapes import ShapesSpec, write_shapes
from swin_dense.errors import UserError


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """The command line; defaults are those of :class:`ShapesSpec`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", metavar="DIR", type=Path, help="folder to make")
    parser.add_argument("--train", type=int, default=ShapesSpec.train, help="training images")
    parser.add_argument("--val", type=int, default=ShapesSpec.val, help="validation images")
    parser.add_argument("--size", type=int, default=ShapesSpec.size, help="side in pixels")
    parser.add_argument("--seed", type=int, default=ShapesSpec.seed)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Generate; return the exit status: 0, or 2 after a user's mistake."""
    args = parse_args(argv)
    try:
        spec = ShapesSpec(args.train, args.val, args.size, args.seed)
        console = Console(stderr=True)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("drawing shapes", total=spec.train + spec.val)
            written = write_shapes(args.root, spec, on_image=lambda: progress.advance(task))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    state = "written to" if written else "already in"
    print(f"shapes data set ({spec.train} + {spec.val} images) {state} {args.root}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
