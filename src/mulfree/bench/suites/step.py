"""Training steps of a network against its convolutional twin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mulfree.bench.report import milliseconds, ratio
from mulfree.bench.steps import MIN_BATCH, StepOptions, bench_step
from mulfree.bench.suites import Advance, BenchOptions, Suite
from mulfree.cost.counting import BASELINE
from mulfree.cost.table import text_table
from mulfree.errors import ConfigError


def check_options(options: BenchOptions) -> None:
    """Refuse a batch that batch norm cannot be trained on.

    Raises:
        ConfigError: The batch is too small.
    """
    if options.batches and options.batches[0] < MIN_BATCH:
        raise ConfigError(
            f"bench: `--batches` must be at least {MIN_BATCH} for training steps, "
            f"got {options.batches[0]}"
        )


def run(options: BenchOptions, advance: Advance) -> dict[str, Any]:
    """Time training steps; see `bench_step`."""
    step = options.step()
    advance(f"training step of {step['model']}")
    how = StepOptions(device=torch.device(options.device))
    return bench_step(**step, rounds=options.samples, options=how)


def report(operator: str, entry: Mapping[str, Any]) -> str:
    """Table of the times."""
    rows = [
        [name, milliseconds(timing), ratio(timing) if name != BASELINE else ""]
        for name, timing in entry["timings"].items()
    ]
    title = f"Training step of {entry['model']}, batch {entry['batch']}: median (quartiles), ms"
    return text_table(title, ("operator", "time", "ratio"), rows, left=1)


SUITE = Suite(
    summary="a whole training step of ResNet-20, batch 128, against the convolutional network's",
    parts=lambda options: 1,
    run=run,
    report=report,
    check=check_options,
)
