"""Forward and backward passes of an operator on the depthwise layers of EfficientNet-B0."""

from __future__ import annotations

from typing import Any

from mulfree.bench.layers import BenchLayer
from mulfree.bench.suites import Advance, BenchOptions, Suite
from mulfree.bench.suites.operator import bench_layers, report
from mulfree.errors import ConfigError
from mulfree.operators.window import ConvProblem

NETWORK = "efficientnet_b0"

# Channels, side of the input, kernel, stride, layers (arXiv 1905.11946, Table 1, at 224x224).
_LAYERS = (
    (32, 112, 3, 1, 1),
    (96, 112, 3, 2, 1),
    (144, 56, 3, 1, 1),
    (144, 56, 5, 2, 1),
    (240, 28, 5, 1, 1),
    (240, 28, 3, 2, 1),
    (480, 14, 3, 1, 2),
    (480, 14, 5, 1, 1),
    (672, 14, 5, 1, 2),
    (672, 14, 5, 2, 1),
    (1152, 7, 5, 1, 3),
    (1152, 7, 3, 1, 1),
)


def depthwise_layers(options: BenchOptions) -> list[BenchLayer]:
    """The geometries in the order of the network; with `quick` the two of the smallest maps."""
    layers = [
        BenchLayer(
            model=NETWORK,
            problem=ConvProblem(
                batch=options.batch(NETWORK),
                in_channels=channels,
                out_channels=channels,
                groups=channels,
                size=(side, side),
                kernel=(kernel, kernel),
                stride=(stride, stride),
                padding=(kernel // 2, kernel // 2),
            ),
            occurrences=number,
        )
        for channels, side, kernel, stride, number in _LAYERS
    ]
    return layers[-2:] if options.quick else layers


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
