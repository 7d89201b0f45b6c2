"""Tables of plain characters, the same in a terminal, a pipe and a file."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from mulfree.errors import printable

# Wider than any table: what goes into a file or pipe must not be cut to a terminal's width.
_WIDTH = 1000


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
        table.add_column(column, justify="left" if index < left else "right")
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
