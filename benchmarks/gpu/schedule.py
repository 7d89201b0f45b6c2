"""Measure as much as time allows: parts in order of importance, each result kept at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

OUT_OF_TIME = "not measured: out of time"
MEASURED = "measured"


Entries = Callable[[], Iterator[Any]]
"""Measures and yields one entry after the other."""


def run_until(
    end: float,
    parts: Mapping[str, Entries],
    save: Callable[[dict[str, Any]], None],
    *,
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """Measure the parts one after the other until the time is over.

    A part that fails says so in its status and keeps what it had; the next one is begun.

    Args:
        end: Time of `clock` after which no entry is begun.
        parts: Measurements by name, the most important first.
        save: Called at once and after every entry with all parts by name: their `entries`, and a
            `status` that is right even if nothing more follows.
        clock: Source of time in seconds.

    Returns:
        Whether no part failed; parts without time do not count as failed.
    """
    results: dict[str, Any] = {name: {"status": OUT_OF_TIME, "entries": []} for name in parts}
    save(results)
    sound = True
    for name, measure in parts.items():
        result, entries = results[name], measure()
        try:
            while clock() < end:
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
    """Type and message of an exception, without line breaks."""
    return " ".join(f"{type(error).__name__}: {error}".split())
