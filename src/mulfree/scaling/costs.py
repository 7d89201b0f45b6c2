"""Costs of a scaled network: counted without memory for its weights, or measured."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch

from mulfree.cost import count
from mulfree.cost.counting import BASELINE
from mulfree.cost.profile import Totals
from mulfree.models import ScaledModel

DTYPE = "fp32"
_ROUNDS = 5


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Cost of a network on one image.

    Attributes:
        params: Number of parameters.
        mul_add: Multiply-adds of the network with convolutions, the FLOPs of the paper.
        additions: Additions and subtractions of the network with its own operator.
        energy: Energy of its arithmetic in pJ.
    """

    params: int
    mul_add: int
    additions: int
    energy: float


def costs_of(scaled: ScaledModel, dtype: str = DTYPE) -> Costs:
    """Count the costs of a network, on the meta device.

    Args:
        scaled: The network.
        dtype: Number format of the energy: a key of `cost.ENERGY_45NM`.

    Raises:
        ConfigError: An option of the network is invalid, or there is no such number format.
    """
    own = _totals(scaled, dtype)
    multiplying = scaled.options.get("operator", BASELINE) == BASELINE
    return Costs(
        params=own.params,
        mul_add=own.cost.mul if multiplying else _mul_add(scaled, dtype),
        additions=own.cost.add,
        energy=own.energy,
    )


def seconds_of(scaled: ScaledModel, dtype: str = DTYPE) -> float:
    """Measure the median time of PyTorch for one image on this machine, in float32.

    The threads are torch's, the weights random. `dtype` has no effect.

    Raises:
        ConfigError: An option of the network is invalid.
    """
    with torch.random.fork_rng(devices=[]):
        network = scaled.create().eval()
    channels = scaled.options.get("in_channels", 3)
    image = torch.zeros(1, channels, scaled.image_size, scaled.image_size)
    samples = []
    with torch.inference_mode():
        network(image)
        for _ in range(_ROUNDS):
            start = time.perf_counter()
            network(image)
            samples.append(time.perf_counter() - start)
    return statistics.median(samples)


def _mul_add(scaled: ScaledModel, dtype: str = DTYPE) -> int:
    return _totals(scaled, dtype, operator=BASELINE).cost.mul


def _totals(scaled: ScaledModel, dtype: str, **options: str) -> Totals:
    with torch.device("meta"):
        network = scaled.create(**options)
    channels = scaled.options.get("in_channels", 3)
    return count(network, (channels, scaled.image_size, scaled.image_size), dtype=dtype).total


MEASURES: Mapping[str, Callable[[ScaledModel, str], float]] = MappingProxyType(
    {
        "mul-add": _mul_add,
        "additions": lambda scaled, dtype: _totals(scaled, dtype).cost.add,
        "energy": lambda scaled, dtype: _totals(scaled, dtype).energy,
        "latency": seconds_of,
    }
)
"""Functions of a network and a number format, by the name of a cost: operations, pJ or seconds."""
