"""Time functions against each other so that their ratio can be trusted.

The candidates take turns, in an order that is reversed every round: what slows the machine down
for a while slows all of them down. A round gives one sample of each, the mean of as many calls as
make it long enough for the clock.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

MIN_SAMPLE_SECONDS = 0.005


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Median and quartiles of some samples.

    Attributes:
        median: Middle sample.
        q1: First quartile.
        q3: Third quartile.
    """

    median: float
    q1: float
    q3: float

    @classmethod
    def of(cls, samples: Iterable[float]) -> Spread:
        """Spread of at least one sample."""
        ordered = sorted(samples)
        if len(ordered) == 1:
            return cls(median=ordered[0], q1=ordered[0], q3=ordered[0])
        q1, median, q3 = statistics.quantiles(ordered, n=4, method="inclusive")
        return cls(median=median, q1=q1, q3=q3)


def interleave(
    candidates: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    min_seconds: float = MIN_SAMPLE_SECONDS,
    pause: float | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds per call of every candidate, one sample a round.

    Args:
        candidates: Functions without arguments, by name.
        rounds: Number of samples of each.
        min_seconds: Least duration of a sample; short functions are called several times for one.
        pause: Seconds of rest before a sample, and then a call that is not timed, for candidates
            with threads of their own: some go on for a while waiting for more work, in the way of
            the next candidate, and start slowly when they have stopped. None by default.
        clock: Source of time in seconds.

    Returns:
        For every name its samples, in the order of the rounds.
    """
    calls = {}
    for name, run in candidates.items():
        run()
        start = clock()
        run()
        calls[name] = max(1, math.ceil(min_seconds / max(clock() - start, 1e-9)))
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    order = list(candidates)
    for _ in range(rounds):
        for name in order:
            run = candidates[name]
            if pause is not None:
                time.sleep(pause)
                run()
            start = clock()
            for _ in range(calls[name]):
                run()
            samples[name].append((clock() - start) / calls[name])
        order.reverse()
    return samples


def compare(samples: Mapping[str, list[float]], baseline: str) -> dict[str, dict[str, float]]:
    """Seconds of every candidate and their ratio to `baseline`, as JSON values.

    `ratio` is the ratio of the medians; `ratio_q1` and `ratio_q3` are the quartiles of the ratios
    within one round.
    """
    reference = samples[baseline]
    result: dict[str, dict[str, float]] = {}
    for name, seconds in samples.items():
        spread = Spread.of(seconds)
        entry: dict[str, float] = {
            "median_s": spread.median,
            "q1_s": spread.q1,
            "q3_s": spread.q3,
            "samples": len(seconds),
        }
        if name != baseline:
            paired = Spread.of(own / other for own, other in zip(seconds, reference, strict=True))
            entry |= {
                "ratio": spread.median / Spread.of(reference).median,
                "ratio_q1": paired.q1,
                "ratio_q3": paired.q3,
            }
        result[name] = entry
    return result


def fastest(samples: Mapping[str, list[float]], names: Iterable[str]) -> str:
    """The name with the smallest median."""
    return min(names, key=lambda name: Spread.of(samples[name]).median)
