"""Forward and backward passes of an operator on the depthwise layers of EfficientNet-B0."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

from mulfree.bench.layers import BenchLayer, layers_of
from mulfree.bench.suites import Advance, BenchOptions, Suite
from mulfree.bench.suites.operator import bench_layers, report
from mulfree.errors import ConfigError

NETWORK = "efficientnet_b0"


def depthwise_layers(options: BenchOptions) -> list[BenchLayer]:
    """The geometries in the order of the network; with `quick` the two of the smallest maps."""
    batch = options.batch(NETWORK)
    layers = [
        replace(layer, problem=replace(layer.problem, batch=batch)) for layer in _single_images()
    ]
    return layers[-2:] if options.quick else layers


@functools.cache
def _single_images() -> list[BenchLayer]:
    layers = layers_of(NETWORK, "adder2d", batch=1, input_size=(3, 224, 224))
    return [layer for layer in layers if layer.problem.groups > 1]


def check(options: BenchOptions) -> None:
    """Refuse other networks and images.

    Raises:
        ConfigError: They are options.
    """
    for name, value in (("models", options.models), ("input-size", options.input_size)):
        if value:
            raise ConfigError(
                f"bench: `--{name}` must be left out for depthwise, whose layers are those of "
                f"{NETWORK} at 224x224, got {value}"
            )


def run(options: BenchOptions, advance: Advance) -> dict[str, Any]:
    """Time every layer; see `mulfree.bench.suites.operator.bench_layers`."""
    named = [(f"depthwise {layer.problem}", layer) for layer in depthwise_layers(options)]
    return bench_layers(named, options, advance)


SUITE = Suite(
    summary="""\
forward, and forward with backward, on the depthwise layers of EfficientNet-B0 at
224x224 (batch 8); not one of `all`""",
    parts=lambda options: len(depthwise_layers(options)),
    run=run,
    report=report,
    check=check,
    in_all=False,
)
