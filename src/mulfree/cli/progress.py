"""Progress bars on standard error."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    track,
)

from mulfree.errors import printable

_T = TypeVar("_T")


def with_progress(steps: Iterable[_T], label: str, total: int | None = None) -> Iterable[_T]:
    """The steps, with a bar on standard error if that is a terminal."""
    console = Console(stderr=True)
    return track(
        steps,
        escape(printable(label)),
        total=total,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


@contextlib.contextmanager
def progress(total: int) -> Iterator[Callable[[str], None]]:
    """A bar over the parts of a measurement; the yielded function names the part that begins."""
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    console = Console(stderr=True)
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task("", total=total)
        begun = 0

        def advance(part: str) -> None:
            nonlocal begun
            bar.update(task, description=part, completed=begun)
            begun += 1

        yield advance
