"""Suites of `mulfree bench`, a module each.

A new suite is a module here with a `SUITE` and a line in `SUITES` below.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mulfree import models

SUITES: tuple[str, ...] = ("operator", "depthwise", "isa", "step", "memory", "runtime")

# Networks, and images in a batch, whose layers the operator is timed on; training steps take the
# first.
NETWORKS = {"resnet20": 128, "resnet18": 8}
QUICK_BATCH = 8
ROUNDS, QUICK_ROUNDS = 15, 3

Advance = Callable[[str], None]
"""Names the part of a measurement that begins."""


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """Options of `mulfree bench`; an empty tuple or None stands for a suite's default.

    Attributes:
        operator: Operator that is timed against the convolution.
        models: Names of networks.
        batches: Images in a batch.
        threads: Numbers of threads.
        input_size: C, H, W of an image.
        device: "cpu" or "cuda".
        isa: Instruction set that all kernels are restricted to.
        rounds: Samples of each candidate.
        quick: One small network and few rounds.
    """

    operator: str = "adder2d"
    models: tuple[str, ...] = ()
    batches: tuple[int, ...] = ()
    threads: tuple[int, ...] = ()
    input_size: tuple[int, ...] | None = None
    device: str = "cpu"
    isa: str | None = None
    rounds: int | None = None
    quick: bool = False

    @property
    def networks(self) -> tuple[str, ...]:
        """Networks whose layers are timed."""
        return self.models or tuple(NETWORKS)[: 1 if self.quick else None]

    @property
    def samples(self) -> int:
        """Samples of each candidate."""
        return self.rounds or (QUICK_ROUNDS if self.quick else ROUNDS)

    def batch(self, network: str) -> int:
        """Images in a batch of a network."""
        if self.batches:
            return self.batches[0]
        return QUICK_BATCH if self.quick else NETWORKS.get(network, QUICK_BATCH)

    def size(self, network: str) -> tuple[int, ...]:
        """C, H, W of an image of a network."""
        side = models.image_size(network)
        return self.input_size or (3, side, side)

    def step(self) -> dict[str, Any]:
        """Arguments of a training step: the first network, its batch and its images."""
        network = self.networks[0]
        return {
            "model": network,
            "operator": self.operator,
            "batch": self.batch(network),
            "input_size": self.size(network),
        }


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A suite of measurements.

    Attributes:
        summary: Description for the help, at most 88 characters a line.
        parts: Number of parts, for the progress bar.
        run: Measures, naming each part as it begins; returns JSON values.
        report: Tables of the result of `run` for an operator.
        check: Raises `ConfigError` for options that the suite cannot measure with.
        alone: Whether it is left out of `all` and `run` returns a result file of its own.
        in_all: Whether it is one of `all`, unless it is alone.
    """

    summary: str
    parts: Callable[[BenchOptions], int]
    run: Callable[[BenchOptions, Advance], Any]
    report: Callable[[str, Any], str]
    check: Callable[[BenchOptions], None] = lambda options: None
    alone: bool = False
    in_all: bool = True


def get_suite(name: str) -> Suite:
    """The suite called `name`, one of `SUITES`."""
    suite = importlib.import_module(f"{__name__}.{name}").SUITE
    assert isinstance(suite, Suite)
    return suite
