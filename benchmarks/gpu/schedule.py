"""Measure as much as time allows: parts in order of importance, each result kept at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

OUT_OF_TIME = "not measured: out of time"
MEASURED = "measured"


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a measurement.

    Attributes:
        name: Its name in the result.
        entries: Measures and yields one entry after the other.
    """

    name: str
    entries: Callable[[], Iterator[Any]]


@dataclass(kw_only=True)
class Deadline:
    """A moment after which nothing new is begun.

    Attributes:
        seconds: How far away it is at first.
        clock: Source of time in seconds.
    """

    seconds: float
    clock: Callable[[], float] = time.monotonic
    _end: float = field(init=False)

    def __post_init__(self) -> None:
        self._end = self.clock() + self.seconds

    @property
    def passed(self) -> bool:
        """Whether it is over."""
        return self.clock() >= self._end


def carry_out(
    parts: Sequence[Part], deadline: Deadline, save: Callable[[dict[str, Any]], None]
) -> bool:
    """Measure the parts one after the other until the time is over.

    A part that fails says so in its status and keeps what it had; the next one is begun.

    Args:
        parts: The most important first.
        deadline: It is looked at before every entry.
        save: Called at once and after every entry with all parts by name: their `entries`, and a
            `status` that is right even if nothing more follows.

    Returns:
        Whether no part failed; parts without time do not count as failed.
    """
    results: dict[str, Any] = {part.name: {"status": OUT_OF_TIME, "entries": []} for part in parts}
    save(results)
    sound = True
    for part in parts:
        result = results[part.name]
        entries = part.entries()
        try:
            while not deadline.passed:
                entry = next(entries, None)
                if entry is None:
                    result["status"] = MEASURED
                    break
                result["entries"].append(entry)
                result["status"] = f"incomplete, the rest {OUT_OF_TIME}"
                sound = sound and "error" not in entry
                save(results)
        except Exception as error:
            # Whatever it is, what comes after it may still be measured.
            kind = "incomplete" if result["entries"] else "not measured"
            result["status"] = f"{kind}: {one_line(error)}"
            sound = False
        save(results)
    return sound


def one_line(error: BaseException) -> str:
    """What an exception says, without its line breaks."""
    return " ".join(f"{type(error).__name__}: {error}".split())
