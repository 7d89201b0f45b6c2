from __future__ import annotations

from collections.abc import Callable

import pytest

from mulfree.bench.timing import Spread, compare, fastest, interleave


class Machine:
    """A clock that only the functions it is asked to make move on."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def taking(self, name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            self.now += seconds
            self.log.append(name)

        return run


def test_candidates_take_turns_in_alternating_order() -> None:
    machine = Machine()
    candidates = {"a": machine.taking("a", 2.0), "b": machine.taking("b", 1.0)}
    samples = interleave(candidates, rounds=3, min_seconds=1.0, clock=lambda: machine.now)
    assert samples == {"a": [2.0, 2.0, 2.0], "b": [1.0, 1.0, 1.0]}
    warm_up, rounds = machine.log[:4], machine.log[4:]
    assert warm_up == ["a", "a", "b", "b"]
    assert rounds == ["a", "b", "b", "a", "a", "b"]


def test_a_short_function_is_called_until_the_clock_can_tell() -> None:
    machine = Machine()
    candidates = {"short": machine.taking("short", 0.25)}
    samples = interleave(candidates, rounds=1, min_seconds=1.0, clock=lambda: machine.now)
    assert samples == {"short": [0.25]}
    assert len(machine.log) == 2 + 4


def test_a_rest_and_a_call_before_every_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    sleep = "mulfree.bench.timing.time.sleep"
    monkeypatch.setattr(sleep, lambda seconds: machine.taking(f"sleep {seconds}", seconds)())
    candidates = {"a": machine.taking("a", 1.0), "b": machine.taking("b", 1.0)}
    samples = interleave(
        candidates, rounds=1, min_seconds=1.0, pause=0.5, clock=lambda: machine.now
    )
    assert samples == {"a": [1.0], "b": [1.0]}
    assert machine.log[4:] == ["sleep 0.5", "a", "a", "sleep 0.5", "b", "b"]


def test_spread() -> None:
    assert Spread.of([5.0, 1.0, 3.0, 2.0, 4.0]) == Spread(median=3.0, q1=2.0, q3=4.0)
    assert Spread.of([7.0]) == Spread(median=7.0, q1=7.0, q3=7.0)


def test_ratios_are_of_medians_and_their_quartiles_of_rounds() -> None:
    timings = compare({"own": [2.0, 4.0, 12.0], "base": [1.0, 2.0, 3.0]}, "base")
    assert timings["base"] == {"median_s": 2.0, "q1_s": 1.5, "q3_s": 2.5, "samples": 3}
    assert timings["own"]["ratio"] == 2.0
    assert timings["own"]["ratio_q1"] == 2.0
    assert timings["own"]["ratio_q3"] == 3.0


def test_the_fastest_has_the_smallest_median() -> None:
    samples = {"a": [1.0, 9.0, 9.0], "b": [5.0, 5.0, 5.0], "c": [0.0, 0.0, 0.0]}
    assert fastest(samples, ["a", "b"]) == "b"
