"""What a run shows while it goes: a bar on a terminal, a line per epoch elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

# Often enough to look alive, seldom enough to cost nothing next to a step of a millisecond.
_SECONDS = 0.1


class Display(Protocol):
    """Where a run reports to."""

    def start(self, steps: int, done: int) -> None:
        """The run has `steps` steps, of which `done` lie behind."""

    def step(self, step: int, epoch: int, loss: float) -> None:
        """A step was taken."""

    def epoch(self, text: str) -> None:
        """An epoch has ended with the results in `text`."""

    def stop(self) -> None:
        """The run is over; called once, also when it failed."""


class Silent:
    """Shows nothing."""

    def start(self, steps: int, done: int) -> None:
        """Nothing."""

    def step(self, step: int, epoch: int, loss: float) -> None:
        """Nothing."""

    def epoch(self, text: str) -> None:
        """Nothing."""

    def stop(self) -> None:
        """Nothing."""


class Lines(Silent):
    """A line per epoch."""

    def epoch(self, text: str) -> None:
        """Prints the line."""
        print(text, flush=True)


class Bar:
    """A bar over all steps, and a line per epoch above it."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task("", total=None)
        self._shown = 0.0

    def start(self, steps: int, done: int) -> None:
        """Shows the bar."""
        self._progress.update(self._task, total=steps, completed=done)
        self._progress.start()

    def step(self, step: int, epoch: int, loss: float) -> None:
        """Moves the bar, unless it was just moved."""
        now = time.monotonic()
        if now - self._shown >= _SECONDS:
            self._shown = now
            text = f"epoch {epoch}  loss {loss:.4f}"
            self._progress.update(self._task, completed=step, description=text)

    def epoch(self, text: str) -> None:
        """Prints the line above the bar."""
        self._progress.console.print(text, markup=False, highlight=False)

    def stop(self) -> None:
        """Removes the bar."""
        self._progress.stop()


@contextlib.contextmanager
def decoding(show: bool) -> Iterator[Callable[[float], None]]:
    """Where `mulfree.data.load` reports to: a bar on standard error, if that is a terminal.

    It appears with the first report, as images that are decoded already take no time.
    """
    console = Console(stderr=True)
    columns = (TextColumn("decoding images"), BarColumn(), TimeRemainingColumn())
    hidden = not (show and console.is_terminal)
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        task = progress.add_task("", total=1.0, visible=False)
        yield lambda share: progress.update(task, completed=share, visible=True)


def display(mode: str) -> Display:
    """The display for `trainer.progress` on this standard output."""
    if mode == "none":
        return Silent()
    console = Console()
    return Bar(console) if console.is_terminal else Lines()
