from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from benchmarks.gpu.schedule import OUT_OF_TIME, Entries, run_until

PARTIAL = f"incomplete, the rest {OUT_OF_TIME}"


class Clock:
    """Time, which passes while entries are measured."""

    now = 0.0

    def taking(self, seconds: float, count: int) -> Entries:
        def entries() -> Iterator[dict[str, int]]:
            for number in range(count):
                self.now += seconds
                yield {"number": number}

        return entries

    def run(self, parts: dict[str, Entries]) -> tuple[bool, list[Any]]:
        saved: list[Any] = []
        sound = run_until(
            10.0, parts, lambda results: saved.append(deepcopy(results)), clock=lambda: self.now
        )
        return sound, saved


def test_every_entry_is_saved_with_a_status_that_is_right_if_nothing_follows() -> None:
    clock = Clock()
    sound, saved = clock.run({"a": clock.taking(1.0, 2), "b": clock.taking(1.0, 1)})
    assert sound
    statuses = [[part["status"] for part in results.values()] for results in saved]
    assert statuses == [
        [OUT_OF_TIME, OUT_OF_TIME],
        [PARTIAL, OUT_OF_TIME],
        [PARTIAL, OUT_OF_TIME],
        ["measured", OUT_OF_TIME],
        ["measured", PARTIAL],
        ["measured", "measured"],
    ]
    assert saved[-1]["a"]["entries"] == [{"number": 0}, {"number": 1}]


def test_nothing_is_begun_after_the_deadline() -> None:
    clock = Clock()
    sound, saved = clock.run({"a": clock.taking(6.0, 5), "b": clock.taking(6.0, 1)})
    assert sound
    assert clock.now == 12.0
    assert saved[-1] == {
        "a": {"status": PARTIAL, "entries": [{"number": 0}, {"number": 1}]},
        "b": {"status": OUT_OF_TIME, "entries": []},
    }


def test_a_part_that_fails_keeps_what_it_had_and_the_next_one_is_measured() -> None:
    def failing(first: int) -> Iterator[dict[str, int]]:
        yield from ({"number": number} for number in range(first))
        raise RuntimeError("out of\nmemory")

    parts = {"a": lambda: failing(0), "b": lambda: failing(1), "c": lambda: iter([{"number": 7}])}
    sound, saved = Clock().run(parts)
    assert not sound
    assert [(part["status"], len(part["entries"])) for part in saved[-1].values()] == [
        ("not measured: RuntimeError: out of memory", 0),
        ("incomplete: RuntimeError: out of memory", 1),
        ("measured", 1),
    ]
    sound, saved = Clock().run({"a": lambda: iter([{"error": "x"}])})
    assert (sound, saved[-1]["a"]["status"]) == (False, "measured")
