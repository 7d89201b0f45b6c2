"""Tables of plain characters, the same in a terminal, a pipe and a file, and in markdown."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from mulfree.errors import printable

# Wider than any table: what goes into a file or pipe must not be cut to a terminal's width.
_WIDTH = 1000

_MAX_LISTED = 8


def text_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    left: int,
    total: Sequence[str] | None = None,
) -> str:
    """A table as text, with what a terminal would obey escaped.

    Args:
        title: Line above it.
        columns: Headings.
        rows: Cells.
        left: How many columns are aligned to the left; the rest are numbers.
        total: A last row, set apart.
    """
    table = Table(box=box.ASCII2)
    for index, column in enumerate(columns):
        table.add_column(printable(column), justify="left" if index < left else "right")
    for row in rows:
        table.add_row(*map(printable, row))
    if total is not None:
        table.add_section()
        table.add_row(*total)
    stream = io.StringIO()
    console = Console(file=stream, width=_WIDTH, color_system=None, markup=False, highlight=False)
    console.print(table)
    # Not as the table's own title, which is wrapped to the table's width.
    lines = [printable(title), *map(str.rstrip, stream.getvalue().splitlines())]
    return "".join(f"{line}\n" for line in lines)


def markdown_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    notes: Iterable[str],
    *,
    left: int,
) -> str:
    """A table in markdown with a line above and notes below; arguments as of `text_table`."""
    rules = ["---" if index < left else "---:" for index in range(len(columns))]
    cells = (
        [printable(cell).replace("|", "\\|") for cell in row] for row in (columns, rules, *rows)
    )
    lines = [printable(title), "", *(f"| {' | '.join(row)} |" for row in cells)]
    for note in notes:
        lines += ["", note]
    return "\n".join(lines) + "\n"


def format_size(size: Iterable[int]) -> str:
    """A shape as text, such as 3x32x32."""
    return "x".join(map(str, size))


def scaled(value: float, unit: str = "", start: str = " ") -> str:
    """`value` with four significant digits and a decimal prefix, counted up from `start`."""
    prefixes = "pnum kMGTP"
    index = prefixes.index(start)
    # What is printed is compared: 999.96 would print as 1000.
    while float(f"{value:.4g}") >= 1000 and index < len(prefixes) - 1:
        value /= 1000
        index += 1
    return f"{value:.4g} {prefixes[index].strip()}{unit}".rstrip()


def listed(items: Sequence[str]) -> str:
    """The first of the items, and how many more there are."""
    more = f" and {len(items) - _MAX_LISTED} more" if len(items) > _MAX_LISTED else ""
    return printable(", ".join(items[:_MAX_LISTED]) + more)
