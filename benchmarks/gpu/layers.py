"""Time an operator on one geometry in several number formats and memory formats, pass by pass."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from mulfree.bench.correctness import check
from mulfree.bench.device import (
    DTYPES,
    Precision,
    captured,
    clock_of,
    computing_in,
    tuned_convolutions,
)
from mulfree.bench.layers import BenchLayer
from mulfree.bench.passes import INPUTS, make, operands, taps_per_s
from mulfree.bench.timing import Spread, fastest, interleave
from mulfree.cost.counting import BASELINE
from mulfree.operators import Operator, get_operator

# Shorter than on a CPU: a device of its own has nobody to disturb it.
_SAMPLE_SECONDS = 0.002


def time_layer(
    operator: Operator,
    layer: BenchLayer,
    *,
    passes: Sequence[str],
    precisions: Sequence[Precision],
    device: torch.device,
    rounds: int,
    limit: float | None,
) -> list[dict[str, Any]]:
    """Check an operator on one geometry in every format, then time it against the convolution.

    What is timed is a replayed CUDA graph, so that launches cost nothing; where a pass cannot be
    captured it is called as usual, and the entry says so.

    Args:
        operator: What is timed.
        layer: The geometry.
        passes: Some of `mulfree.bench.passes.ALL_PASSES`.
        precisions: Number formats.
        device: Where.
        rounds: Samples of each.
        limit: Taps a second that the device can do in float32 at most, if that is known.

    Returns:
        One entry for every pass and number format, as JSON values.

    Raises:
        BenchmarkError: The operator is wrong on this geometry; nothing was timed.
    """
    problem = layer.problem
    kind = INPUTS[0]
    formats = list(itertools.product(precisions, (False, True)))
    tensors = {
        (DTYPES[precision], last): operands(
            problem, kind, device=device, dtype=DTYPES[precision], channels_last=last
        )
        for precision, last in formats
    }
    for precision, last in formats:
        check(operator, problem, *tensors[DTYPES[precision], last][:2], precision=precision)
    entries = []
    for direction, precision in itertools.product(passes, precisions):
        candidates: dict[str, Callable[[], object]] = {}
        names: dict[str, list[str]] = {operator.name: [], BASELINE: []}
        replayed = True
        with computing_in(precision), tuned_convolutions():
            for entry, last in itertools.product((operator, get_operator(BASELINE)), (False, True)):
                given = tensors[DTYPES[precision], last]
                build = partial(make, entry, problem, direction, given)
                label = entry.name + (" channels_last" if last else "")
                names[entry.name].append(label)
                try:
                    candidates[label] = captured(build, device)
                except RuntimeError:
                    candidates[label], replayed = build(), False
            samples = interleave(
                candidates, rounds=rounds, min_seconds=_SAMPLE_SECONDS, clock=clock_of(device)
            )
        best = {name: fastest(samples, labels) for name, labels in names.items()}
        seconds = {name: Spread.of(samples[label]).median for name, label in best.items()}
        rate = taps_per_s(problem, direction, seconds[operator.name])
        entries.append(
            {
                **layer.to_json(kind, direction),
                "precision": precision,
                "replayed": replayed and device.type == "cuda",
                "timings": {name: asdict(Spread.of(own)) for name, own in samples.items()},
                "best": best,
                "ratio": seconds[operator.name] / seconds[BASELINE],
                "taps_per_s": rate,
                # A bound of the forward pass in float32: other passes take other instructions.
                "limit_share": rate / limit if limit and direction == "forward" else None,
            }
        )
    return entries
