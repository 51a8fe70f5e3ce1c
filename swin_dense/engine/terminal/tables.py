"""Tables on the terminal and in Markdown documents."""

from collections.abc import Iterable
from typing import Any, Literal

from rich.table import Table


def terminal_table(
    headings: Iterable[str], rows: Iterable[Iterable[str]], title: str = "", caption: str = ""
) -> Table:
    """A table for the terminal; a column whose heading ends in ':' is aligned to the right."""
    table = Table(title=title or None, caption=caption or None, header_style="bold")
    table.title_justify = table.caption_justify = "left"
    for heading in headings:
        side: Literal["left", "right"] = "right" if heading.endswith(":") else "left"
        table.add_column(heading.rstrip(":"), justify=side, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def markdown_table(headings: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """The same in Markdown; cells may be of any type."""
    headings = list(headings)
    rules = ["--:" if heading.endswith(":") else "---" for heading in headings]
    lines = [[heading.rstrip(":") for heading in headings], rules, *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)
