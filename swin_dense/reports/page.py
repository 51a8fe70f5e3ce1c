"""An HTML page in one file: text, tables, charts and pictures, with nothing beside it.

>>> page = Page("Fruits and nuts", "18 images, 3 classes")
>>> section = page.section("Classes")
>>> section.table(["class", "objects:"], [["date", 37], ["fig", 41]])
>>> figure, axes = new_figure()
>>> axes.bar(["date", "fig"], [37, 41])
>>> section.figure(figure, "Objects of each class.")
>>> page.write("classes.html")
"""

import base64
import io
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from swin_dense import __version__
from swin_dense.files import write_text

# Okabe and Ito's colours, which people who do not see all colours can tell apart, black last.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#333333")
_LONGEST_SIDE = 960  # pixels of a picture; more would make pages of many megabytes
_STYLE = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.edgecolor": "#9aa3ad",
    "axes.labelcolor": "#3b4650",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e9ec",
    "xtick.color": "#59636d",
    "ytick.color": "#59636d",
    "svg.hashsalt": "swin_dense",  # the same chart has the same bytes
    "svg.fonttype": "none",  # the browser has letters that matplotlib's fonts lack
}


class Link(NamedTuple):
    """A cell of a table, or a caption, that leads to another file or page."""

    text: str
    href: str


class Picture(NamedTuple):
    """An image of a page.

    Attributes:
        pixels: (H, W, 3) BGR or (H, W), of 8 bits, or the bytes of a JPEG file.
        caption: a line below it.
        href: what a click on it leads to.
    """

    pixels: NDArray[np.uint8] | bytes
    caption: str | Link = ""
    href: str | None = None


@dataclass
class Section:
    """A heading with what is below it, in the order in which it is added."""

    heading: str
    blocks: list[dict[str, Any]] = field(default_factory=list)

    def text(self, text: str) -> None:
        """Adds a paragraph."""
        self._add("text", text=text)

    def warning(self, text: str) -> None:
        """Adds a paragraph that stands out."""
        self._add("warning", text=text)

    def table(
        self, headings: Iterable[str], rows: Iterable[Iterable[Any]], caption: str = ""
    ) -> None:
        """Adds a table; a column whose heading ends in ':' is aligned to the right.

        Cells are text, numbers (fractions with three decimals), a :class:`Link` or None.
        """
        heads = [{"text": h.rstrip(":"), "is_number": h.endswith(":")} for h in headings]
        self._add("table", headings=heads, rows=[list(row) for row in rows], caption=caption)

    def figure(self, figure: Any, caption: str = "") -> None:
        """Adds a chart of :func:`new_figure`, or any figure of matplotlib; the caption explains."""
        self.figures([figure], caption)

    def figures(self, figures: Iterable[Any], caption: str = "") -> None:
        """Adds charts with one caption: side by side, or below each other in a narrow window."""
        sources = [_svg(figure) for figure in figures]
        self._add("figures", sources=sources, caption=caption)

    def pictures(self, pictures: Iterable[Picture], per_row: int = 4) -> None:
        """Adds pictures side by side: up to ``per_row`` of them, fewer in a narrow window."""
        shown = [
            {"source": _jpeg(one.pixels), "caption": one.caption, "href": one.href}
            for one in pictures
        ]
        width = f"{int(1120 / per_row) - 16}px"
        self._add("pictures", pictures=shown, width=width, is_single=per_row == 1)

    def code(self, text: str, summary: str = "") -> None:
        """Adds text as it is, such as a config; with a ``summary``, a click on that unfolds it."""
        self._add("code", text=text, summary=summary)

    def _add(self, kind: str, **content: Any) -> None:
        self.blocks.append({"kind": kind, **content})


class Page:
    """A page with a title, a line below it, and sections, to which a list at the top leads."""

    def __init__(self, title: str, subtitle: str = "") -> None:
        self.title, self.subtitle = title, subtitle
        self.sections: list[Section] = []

    def section(self, heading: str, text: str = "") -> Section:
        """Adds a section, with its first paragraph."""
        section = Section(heading)
        if text:
            section.text(text)
        self.sections.append(section)
        return section

    def html(self) -> str:
        """The page; all text in it is escaped."""
        from jinja2 import Environment, PackageLoader, StrictUndefined

        environment = Environment(
            loader=PackageLoader("swin_dense.reports"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters["cell"] = _cell
        environment.tests["link"] = lambda value: isinstance(value, Link)
        return environment.get_template("page.html").render(page=self, version=__version__)

    def write(self, path: str | Path) -> None:
        """Writes the page; see :func:`swin_dense.files.replace_file` for errors."""
        write_text(path, self.html())


def new_figure(
    columns: int = 1, rows: int = 1, size: tuple[float, float] = (5.6, 2.9)
) -> tuple[Any, Any]:
    """A figure of matplotlib in the page's style, without pyplot, whose state is global.

    Args:
        columns, rows: of charts.
        size: width and height of each, in inches; the page is 11.6 inches wide.

    Returns:
        The figure, and its axes: one, or an array (rows * columns,).
    """
    import matplotlib
    from cycler import cycler
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**_STYLE, "axes.prop_cycle": cycler(color=COLOURS)}):
        figure = Figure(figsize=(columns * size[0], rows * size[1]), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
    return figure, (axes[0] if len(axes) == 1 else axes)


def _svg(figure: Any) -> str:
    """A figure as the address of an image that holds it, which any size leaves sharp."""
    import matplotlib

    file = io.BytesIO()
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(file, format="svg", metadata={"Date": None})
    return _address("image/svg+xml", file.getvalue())


def _jpeg(pixels: NDArray[np.uint8] | bytes) -> str:
    if isinstance(pixels, bytes):
        return _address("image/jpeg", pixels)
    scale = _LONGEST_SIDE / max(pixels.shape[:2])
    if scale < 1:
        pixels = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    return _address("image/jpeg", encode_jpeg(pixels))


def encode_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """The bytes of a JPEG file of pixels, (H, W, 3) BGR or (H, W)."""
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()


def _address(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _cell(value: Any) -> str:
    """A cell of a table as text."""
    if value is None or value != value:  # nan: nothing to measure
        return "-"
    if isinstance(value, float | np.floating):
        return f"{float(value):.3f}"
    return f"{value:,}" if isinstance(value, int | np.integer) else str(value)
