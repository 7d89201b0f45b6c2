from __future__ import annotations

from typing import Any

import pytest
from tests.runtime.graphs import tiny
from torch import nn

from mulfree import cost, models
from mulfree import nn as mnn
from mulfree.errors import ConfigError, MulfreeError, ShapeError
from mulfree.opcounts import OpCounts
from mulfree.runtime import Graph

# A 1x1 layer from one to two channels on 3x3 positions, and one from two to two.
FIRST, SECOND = 9 * 2, 9 * 4
LATENCY = cost.Latency(seconds={"adders": 0.25}, processor="abacus", threads=1, rounds=3)


def network(second: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), second)


def compare(**options: Any) -> cost.Comparison:
    networks: dict[str, nn.Module | Graph] = {
        "convolutions": network(nn.Conv2d(2, 2, 1, bias=False)),
        "adders": network(mnn.Adder2d(2, 2, 1, bias=False)),
        "binary": network(mnn.Adder2d(2, 2, 1, bias=False)),
        "integers": tiny(),
    }
    return cost.compare(networks, input_size=(1, 3, 3), binary=["binary"], **options)


def test_operations_and_parameters_by_hand() -> None:
    comparison = compare()
    convolutions, adders, binary, integers = comparison.networks
    assert convolutions.cost == OpCounts(mul=FIRST + SECOND, add=FIRST + SECOND)
    assert adders.cost == OpCounts(mul=FIRST, add=FIRST + 2 * SECOND)
    assert binary.cost == OpCounts(mul=FIRST, add=FIRST + SECOND, xnor=SECOND)
    assert (integers.cost.mul, integers.cost.add) == (10, 88)
    assert [entry.params for entry in comparison.networks] == [6, 6, 6, 276]
    assert {entry.input_size for entry in comparison.networks} == {(1, 3, 3)}
    assert (comparison.convention, comparison.latency) == ("exact", None)


def test_energy_of_arithmetic_by_hand() -> None:
    convolutions, adders, binary, integers = (entry.energy for entry in compare().networks)
    assert convolutions["fp32"].arithmetic == pytest.approx((FIRST + SECOND) * 4.6)
    assert adders["fp32"].arithmetic == pytest.approx(FIRST * 4.6 + SECOND * 1.8)
    assert convolutions["int8_sums_int8"].arithmetic == pytest.approx((FIRST + SECOND) * 0.23)
    assert adders["int8_sums_int8"].arithmetic == pytest.approx(FIRST * 0.23 + SECOND * 0.06)
    # One of the two operations of a tap is a sum of 32 bits.
    assert convolutions["int8"].arithmetic == pytest.approx((FIRST + SECOND) * 0.3)
    assert adders["int8"].arithmetic == pytest.approx(FIRST * 0.3 + SECOND * 0.13)
    assert binary["int8"].arithmetic == pytest.approx(FIRST * 0.3 + SECOND * 0.1)
    assert list(integers) == ["int8"]
    assert integers["int8"].arithmetic == pytest.approx(17.36 + 1.0 + 10.4)


def test_energy_of_traffic_by_hand() -> None:
    convolutions, _, binary, integers = (entry.energy for entry in compare().networks)
    # Weights, inputs and outputs of both layers.
    moved = (2 + 9 + 18) + (4 + 18 + 18)
    for dtype, itemsize in (("fp32", 4), ("int8", 1), ("int8_sums_int8", 1)):
        energy = convolutions[dtype]
        assert energy.sram - energy.arithmetic == pytest.approx(moved * itemsize * 5 / 4)
        assert energy.dram - energy.arithmetic == pytest.approx(moved * itemsize * 640 / 4)
    # Four weights are four bits, rounded down to bytes.
    energy = binary["int8"]
    assert energy.dram - energy.arithmetic == pytest.approx((moved - 4) * 160)
    energy = integers["int8"]
    total = (256 + 18) + (32 + 17) + 10 + (20 + 10)
    assert energy.sram - energy.arithmetic == pytest.approx(total * 1.25)


def test_the_papers_convention() -> None:
    convolutions, adders, binary, _ = compare(convention="paper").networks
    taps = FIRST + SECOND
    assert convolutions.cost == OpCounts(mul=taps, add=taps)
    assert adders.cost == OpCounts(add=2 * taps)
    assert binary.cost == OpCounts(add=taps, xnor=taps)


def test_latency_and_uncounted_arithmetic_are_kept() -> None:
    comparison = compare(latency=LATENCY)
    assert comparison.latency is LATENCY
    odd = cost.compare({"odd": nn.Sequential(nn.PReLU())}, input_size=(1, 2, 2))
    assert odd.networks[0].uncounted == ("0",)


def test_a_size_of_its_own() -> None:
    networks = {name: models.create_model(name) for name in ("lenet5_bn", "resnet20")}
    found = cost.compare(networks, mixed_sizes=True).networks
    assert [entry.input_size for entry in found] == [(3, 28, 28), (3, 32, 32)]
    with pytest.raises(
        ShapeError, match=r"inputs of one size, got 3x28x28 of 'lenet5_bn' and 3x32x32 of 'resne"
    ):
        cost.compare(networks)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"binary": ["twin"]}, "`binary` must be one of .*, got 'twin'"),
        ({"binary": ["integers"]}, "`binary` must name float networks, got 'integers', which is q"),
        ({"latency": LATENCY}, "`latency` must be one of .*, got 'adders'"),
        ({"convention": "papers"}, "`convention` must be one of .*; did you mean 'paper'"),
        ({"input_size": (2, 3, 3)}, r"`input_size` must fit Conv2d, got \(2, 3, 3\)"),
        ({"input_size": None}, "must be one that create_model built"),
    ],
)
def test_a_mistake(options: dict[str, Any], message: str) -> None:
    networks: dict[str, nn.Module | Graph] = {"layer": nn.Conv2d(1, 1, 1), "integers": tiny()}
    with pytest.raises(MulfreeError, match=message):
        cost.compare(networks, **({"input_size": (1, 3, 3)} | options))


def test_no_network() -> None:
    with pytest.raises(ConfigError, match="`networks` must name at least one network, got none"):
        cost.compare({})
