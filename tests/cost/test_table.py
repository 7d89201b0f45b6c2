from __future__ import annotations

from mulfree.cost.table import text_table


def test_cells_and_title_are_escaped() -> None:
    rows = [("\x1b[31mconv", "1"), ("e[/red]\nx", "23")]
    table = text_table("\x1b]0;title\x07", ("name", "#"), rows, left=1, total=("all", "24"))
    assert table == (
        "\\x1b]0;title\\x07\n"
        "+--------------+----+\n"
        "| name         |  # |\n"
        "+--------------+----+\n"
        "| \\x1b[31mconv |  1 |\n"
        "| e[/red] x    | 23 |\n"
        "+--------------+----+\n"
        "| all          | 24 |\n"
        "+--------------+----+\n"
    )
