"""Pages: self-contained, escaped, and readable in a browser."""

import re
from pathlib import Path

import numpy as np

from swin_dense.reports.page import Link, Page, Picture, new_figure


def make_page() -> Page:
    page = Page("A <title>", "what it is")
    section = page.section("Numbers & names", "The first sentence.")
    section.table(
        ["class", "AP:", "objects:"],
        [["<b>date</b>", 0.25, 12345], [Link("fig", "data/fig.jpg"), float("nan"), None]],
        "What the columns mean.",
    )
    figure, axes = new_figure()
    axes.plot([0, 1], [0, 1])
    section.figure(figure, "A line.")
    other = page.section("Pictures")
    gradient = np.tile(np.arange(200, dtype=np.uint8), (100, 1))
    other.pictures([Picture(gradient, "grey"), Picture(np.dstack([gradient] * 3), href="x.jpg")])
    other.warning("Look here.")
    other.code("model = dict(a='<x>')", "config")
    return page


def test_page_is_one_file_and_escaped(tmp_path: Path):
    make_page().write(tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text()
    assert "<title>A &lt;title&gt;</title>" in html
    assert "&lt;b&gt;date&lt;/b&gt;" in html
    assert "Numbers &amp; names" in html
    assert 'class="number">0.250<' in html
    assert 'class="number">12,345<' in html
    assert html.count('class="number">-<') == 2
    assert '<a href="data/fig.jpg">fig</a>' in html
    sources = re.findall(r'src="([^"]{0,22})', html)
    assert [source.partition(";")[0] for source in sources] == [
        "data:image/svg+xml",
        "data:image/jpeg",
        "data:image/jpeg",
    ]
    assert "<link" not in html
    assert "<script" not in html


def test_same_page_same_bytes():
    assert make_page().html() == make_page().html()
