"""Progress of a run: a bar on a terminal, a line per epoch elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

# Often enough to look alive, rare enough to be cheap next to a step of a millisecond.
_SECONDS = 0.1


class Display:
    """Progress of a run on standard output: a line per epoch and, on a terminal, a bar of steps.

    Args:
        show: Whether anything is shown.
    """

    def __init__(self, show: bool) -> None:
        console = Console()
        self._show = show
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not (show and console.is_terminal),
        )
        self._task = self._progress.add_task("", total=None)
        self._shown = 0.0

    def start(self, steps: int, done: int) -> None:
        """Show the bar at step `done` of `steps`."""
        self._progress.update(self._task, total=steps, completed=done)
        self._progress.start()

    def step(self, step: int, epoch: int, loss: float) -> None:
        """Move the bar, unless it has just moved."""
        now = time.monotonic()
        if now - self._shown >= _SECONDS:
            self._shown = now
            text = f"epoch {epoch}  loss {loss:.4f}"
            self._progress.update(self._task, completed=step, description=text)

    def epoch(self, text: str) -> None:
        """Print the results of an epoch, above the bar."""
        if self._show:
            self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def stop(self) -> None:
        """Remove the bar; may be called at any time, also twice."""
        if not self._progress.disable:
            self._progress.stop()


@contextlib.contextmanager
def decoding(show: bool) -> Iterator[Callable[[float], None]]:
    """Progress callback of `mulfree.data.load`: a bar on standard error, if that is a terminal.

    It appears with the first report, as cached images take no time.
    """
    console = Console(stderr=True)
    columns = (TextColumn("decoding images"), BarColumn(), TimeRemainingColumn())
    hidden = not (show and console.is_terminal)
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        task = progress.add_task("", total=1.0, visible=False)
        yield lambda share: progress.update(task, completed=share, visible=True)
