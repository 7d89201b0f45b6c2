"""Costs of several networks side by side."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from mulfree import models
from mulfree.cost.counting import count
from mulfree.cost.energy import ENERGY_45NM, MEMORY_45NM
from mulfree.cost.graph_counting import count_graph
from mulfree.cost.profile import Profile
from mulfree.cost.table import format_size
from mulfree.errors import ConfigError, ShapeError, choices_message, quoted
from mulfree.opcounts import OpCounts
from mulfree.runtime import Graph

ENERGIES = ("fp32", "int8", "int8_sums_int8")
"""Number formats of energies: float32; bytes with sums of 32 bits; bytes with sums of bytes."""


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Energy of one image at 45 nm, in pJ.

    Attributes:
        arithmetic: Of the operations alone.
        sram: With all weights and maps moved once, from and to an 8 KB SRAM.
        dram: With all weights and maps moved once, from and to DRAM.
    """

    arithmetic: float
    sram: float
    dram: float

    @classmethod
    def of(cls, arithmetic: float, traffic_bytes: int) -> Energy:
        """Energy of some arithmetic in pJ and of moving some bytes."""
        sram, dram = (arithmetic + traffic_bytes * MEMORY_45NM[level] for level in MEMORY_45NM)
        return cls(arithmetic=arithmetic, sram=sram, dram=dram)


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Measured times of one image, with the machine that they are of.

    Attributes:
        seconds: Median by name of the network.
        processor: Name of the processor.
        threads: Threads of one run.
        rounds: Samples of each network.
        commit: Commit of mulfree, if it is a working copy.
    """

    seconds: Mapping[str, float]
    processor: str
    threads: int
    rounds: int
    commit: str | None = None


@dataclass(frozen=True, kw_only=True)
class NetworkCost:
    """Cost of one image in one network.

    Attributes:
        name: Name in the comparison.
        input_size: C, H, W.
        cost: Operations by kind.
        params: Parameters; of a quantised network, the numbers in its tensors.
        energy: Energy by an entry of `ENERGIES`; of a quantised network of "int8" alone.
        uncounted: Layers and functions with arithmetic that is not counted.
    """

    name: str
    input_size: tuple[int, ...]
    cost: OpCounts
    params: int
    energy: Mapping[str, Energy]
    uncounted: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Costs of networks side by side.

    Attributes:
        networks: Costs, in the order given.
        convention: "exact" or "paper", see `count`.
        latency: Measured times, if any.
    """

    networks: tuple[NetworkCost, ...]
    convention: str
    latency: Latency | None = None


def compare(
    networks: Mapping[str, nn.Module | Graph],
    *,
    input_size: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
    convention: str = "exact",
    binary: Collection[str] = (),
    mixed_sizes: bool = False,
    latency: Latency | None = None,
) -> Comparison:
    """Count networks for one image each and put them side by side.

    Energies are given three times. In "fp32" and "int8_sums_int8" all operations have the width of
    the format, as in the papers. In "int8" sums over taps have 32 bits, as the runtime computes
    them: 0.3 pJ for a tap of a convolution and 0.13 pJ for one of an adder layer.
    Normalisation is left out of float networks; of a quantised one it is part of the epilogues.

    Args:
        networks: Float or quantised networks by name.
        input_size: Shape of one input of the float networks, or of each by its name; by default
            what each is made for, if `create_model` or `load_model` returned it.
        convention: Of float networks, see `count`.
        binary: Names of float networks that are counted as their binary twin, see `count`.
        mixed_sizes: Compare networks with inputs of different sizes.
        latency: Times of networks among these, see `mulfree.bench.latency.measure_latency`.

    Raises:
        ConfigError: No network is given, `binary` or `latency` names another network or `binary` a
            quantised one, an option is unknown, or a network was not built by `create_model` and
            `input_size` is not given.
        ShapeError: The networks have inputs of different sizes, or one fails on its input.
    """
    if not networks:
        raise ConfigError("cost.compare: `networks` must name at least one network, got none")
    measured = latency.seconds if latency is not None else {}
    for option, names in (("binary", binary), ("latency", measured)):
        for name in names:
            if name not in networks:
                raise ConfigError(choices_message("cost.compare", option, name, networks))
    costs = []
    for name, network in networks.items():
        if not isinstance(network, Graph):
            size = input_size.get(name) if isinstance(input_size, Mapping) else input_size
            size = models.input_size(network) if size is None else size
            costs.append(_float(name, network, size, convention, name in binary))
        elif name not in binary:
            costs.append(_quantised(name, network))
        else:
            raise ConfigError(
                f"cost.compare: `binary` must name float networks, got {quoted(name)}, which is "
                "quantised"
            )
    if not mixed_sizes:
        _check_sizes(costs)
    return Comparison(networks=tuple(costs), convention=convention, latency=latency)


def _quantised(name: str, graph: Graph) -> NetworkCost:
    profile = count_graph(graph)
    total = profile.total
    return _cost(name, profile, {"int8": Energy.of(total.energy, total.traffic_bytes)})


def _float(
    name: str, model: nn.Module, size: Sequence[int], convention: str, binary: bool
) -> NetworkCost:
    profiles = {
        dtype: count(model, size, dtype=dtype, convention=convention, binary=binary)
        for dtype in ("fp32", "int8")
    }
    full, byte = profiles["fp32"].total, profiles["int8"].total
    sums = sum(layer.accumulations for layer in profiles["int8"].layers)
    wider = sums * (ENERGY_45NM["int32"].add - ENERGY_45NM["int8"].add)
    energies = {
        "fp32": Energy.of(full.energy, full.traffic_bytes),
        "int8": Energy.of(byte.energy + wider, byte.traffic_bytes),
        "int8_sums_int8": Energy.of(byte.energy, byte.traffic_bytes),
    }
    return _cost(name, profiles["fp32"], energies)


def _cost(name: str, profile: Profile, energies: Mapping[str, Energy]) -> NetworkCost:
    return NetworkCost(
        name=name,
        input_size=profile.input_size,
        cost=profile.total.cost,
        params=profile.total.params,
        energy=energies,
        uncounted=profile.uncounted,
    )


def _check_sizes(costs: Sequence[NetworkCost]) -> None:
    first = costs[0]
    for other in costs:
        if other.input_size != first.input_size:
            raise ShapeError(
                "cost.compare: `networks` must have inputs of one size, got "
                f"{format_size(first.input_size)} of {quoted(first.name)} and "
                f"{format_size(other.input_size)} of {quoted(other.name)}; "
                "`input_size` sets it, `mixed_sizes` allows several"
            )
