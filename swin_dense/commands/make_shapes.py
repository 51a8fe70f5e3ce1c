"""Generating the shapes data set that the demo configs train on."""

from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from swin_dense.datasets.shapes import ShapesSpec, write_shapes


def make_shapes(root: Path, **settings: int) -> None:
    """Generates the data set, or reports that it is already there.

    Args:
        root: folder to create.
        settings: of :class:`ShapesSpec`.
    """
    spec = ShapesSpec(**settings)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("drawing shapes", total=spec.train + spec.val)
        written = write_shapes(root, spec, on_image=lambda: progress.advance(task))
    state = "written to" if written else "already in"
    print(f"shapes data set ({spec.train} + {spec.val} images) {state} {root}")
