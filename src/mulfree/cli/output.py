"""Text for the terminal."""

from __future__ import annotations

from mulfree.errors import printable


def print_text(text: str) -> None:
    """Print lines of text that may quote file names and file contents.

    Line breaks are kept; every other character that a terminal would obey is escaped.
    """
    print("\n".join(map(printable, text.split("\n"))), flush=True)
