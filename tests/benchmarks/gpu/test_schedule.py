from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from benchmarks.gpu.schedule import OUT_OF_TIME, Entries, run_until


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def run(parts: dict[str, Entries], clock: Clock, seconds: float = 10.0) -> tuple[bool, list[Any]]:
    saved: list[Any] = []
    sound = run_until(seconds, parts, lambda results: saved.append(deepcopy(results)), clock=clock)
    return sound, saved


def taking(clock: Clock, seconds: float, count: int) -> Iterator[dict[str, int]]:
    for number in range(count):
        clock.now += seconds
        yield {"number": number}


def test_every_entry_is_saved_with_a_status_that_is_right_if_nothing_follows() -> None:
    clock = Clock()
    parts = {
        "a": lambda: taking(clock, 1.0, 2),
        "b": lambda: taking(clock, 1.0, 1),
    }
    sound, saved = run(parts, clock)
    assert sound
    statuses = [[part["status"] for part in results.values()] for results in saved]
    partial = f"incomplete, the rest {OUT_OF_TIME}"
    assert statuses == [
        [OUT_OF_TIME, OUT_OF_TIME],
        [partial, OUT_OF_TIME],
        [partial, OUT_OF_TIME],
        ["measured", OUT_OF_TIME],
        ["measured", partial],
        ["measured", "measured"],
    ]
    assert saved[-1]["a"]["entries"] == [{"number": 0}, {"number": 1}]


def test_nothing_is_begun_after_the_deadline() -> None:
    clock = Clock()
    parts = {
        "a": lambda: taking(clock, 6.0, 5),
        "b": lambda: taking(clock, 6.0, 1),
    }
    sound, saved = run(parts, clock)
    assert sound
    assert clock.now == 12.0
    assert saved[-1] == {
        "a": {
            "status": f"incomplete, the rest {OUT_OF_TIME}",
            "entries": [{"number": 0}, {"number": 1}],
        },
        "b": {"status": OUT_OF_TIME, "entries": []},
    }


def test_a_part_that_fails_keeps_what_it_had_and_the_next_one_is_measured() -> None:
    def failing(first: int) -> Iterator[dict[str, int]]:
        yield from ({"number": number} for number in range(first))
        raise RuntimeError("out of\nmemory")

    parts = {
        "a": lambda: failing(0),
        "b": lambda: failing(1),
        "c": lambda: iter([{"number": 7}]),
    }
    sound, saved = run(parts, Clock())
    assert not sound
    assert [(part["status"], len(part["entries"])) for part in saved[-1].values()] == [
        ("not measured: RuntimeError: out of memory", 0),
        ("incomplete: RuntimeError: out of memory", 1),
        ("measured", 1),
    ]


def test_an_entry_with_an_error_is_a_failure_too() -> None:
    sound, saved = run({"a": lambda: iter([{"error": "x"}])}, Clock())
    assert not sound
    assert saved[-1]["a"]["status"] == "measured"
