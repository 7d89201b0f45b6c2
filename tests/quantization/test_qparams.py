from __future__ import annotations

import pytest
from tests.quantization.networks import named
from torch import nn

from mulfree.errors import ConfigError
from mulfree.nn import Adder2d
from mulfree.quantization.fused_graph import Plan
from mulfree.quantization.fused_ops import Layer
from mulfree.quantization.fusion import make_plan
from mulfree.quantization.qparams import Grid, Layout


def test_behind_a_relu_all_integers_are_used() -> None:
    grid = Grid.over(0.0, 5.1, 8)
    assert (grid.zero, grid.top, grid.low) == (0, 255, 0.0)
    assert grid.scale == pytest.approx(0.02)
    assert grid.high == pytest.approx(5.1)


def test_signed_numbers_share_the_integers() -> None:
    grid = Grid.over(-1.0, 3.0, 4)
    assert grid.zero == 4
    assert grid.scale == pytest.approx(4 / 15)
    assert grid.low == pytest.approx(-4 * 4 / 15)
    assert grid.high == pytest.approx(11 * 4 / 15)


@pytest.mark.parametrize(("low", "high"), [(2.0, 4.0), (-4.0, -2.0), (0.0, 0.0)])
def test_zero_is_always_on_the_grid(low: float, high: float) -> None:
    grid = Grid.over(low, high, 8)
    assert 0 <= grid.zero <= 255
    assert grid.low <= min(low, 0.0)
    assert grid.high >= max(high, 0.0)
    assert grid.scale >= 1e-3 / 255


@pytest.mark.parametrize("base", [1.0, 0.3])
@pytest.mark.parametrize("high", [0.255, 0.256, 255.0, 255.1])
def test_powers_of_two_are_wide_enough(base: float, high: float) -> None:
    grid = Grid.over(0.0, high, 8, power_of_two=base)
    ratio = grid.scale / base
    while ratio < 1:
        ratio *= 2
    while ratio > 1:
        ratio /= 2
    assert ratio == 1
    assert high * (1 - 1e-8) <= grid.high < 2 * high


def plan(name: str, side: int = 32, **options: object) -> Plan:
    return make_plan(named(name, "adder2d", width=0.125, **options), (3, side, side))


def layer(plan: Plan, path: str) -> Layer:
    (step,) = (s for s in plan.steps if s.path == path)
    assert isinstance(step, Layer)
    return step


def test_eight_bits_need_no_copies() -> None:
    layout = Layout(plan=plan("resnet20"), bits=8)
    assert set(layout.grids.values()) == {8}
    assert len(layout.grids) == 1 + len(layout.plan.steps) - 1
    assert layout.operand(layer(layout.plan, "layer1.0.conv2")) == "layer1_0_relu1"


def test_what_is_added_keeps_eight_bits() -> None:
    layout = Layout(plan=plan("resnet20"), bits=4)
    grids = layout.grids
    # Read by one layer alone; read by a layer and added; added alone; read by the classifier.
    assert grids["layer1_0_relu1"] == 4
    assert (grids["layer1_0_relu2"], grids["layer1_0_relu2.copy"]) == (8, 4)
    assert grids["layer2_0_downsample_1"] == 8
    assert (grids["avgpool"], grids["images"]) == (8, 8)
    assert "avgpool.copy" not in grids
    assert layout.operand(layer(layout.plan, "layer1.1.conv1")) == "layer1_0_relu2.copy"
    assert layout.original("layer1_0_relu2.copy") == layout.original("layer1_0_relu2")
    bits = {path: layout.weight_bits(layer(layout.plan, path)) for path in ("conv1", "fc")}
    assert bits == {"conv1": 8, "fc": 8}
    assert layout.weight_bits(layer(layout.plan, "layer3.2.conv2")) == 4


def test_a_pooled_value_has_the_grid_of_what_was_pooled() -> None:
    layout = Layout(plan=plan("lenet5_bn"), bits=5)
    assert layout.roots["pool1"] == "relu1"
    assert layout.grids == {"images": 8, "relu1": 5, "relu2": 5, "relu3": 5, "relu4": 8}


def test_first_layers_behind_a_border_have_eight_bits() -> None:
    layout = Layout(plan=plan("lenet5_bn", 28, keep=["last"]), bits=4)
    first = layer(layout.plan, "conv1")
    assert (layout.operand(first), layout.weight_bits(first)) == ("images", 8)


@pytest.mark.parametrize("bits", [7, 0, 16, "8"])
def test_other_bits_are_refused(bits: int) -> None:
    with pytest.raises(ConfigError, match=r"quantize: `bits` must be one of 8, 6, 5, 4, got"):
        Layout(plan=plan("lenet5_bn"), bits=bits)


def test_units_hold_the_number_of_what_is_averaged() -> None:
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AvgPool2d(3), nn.MaxPool2d(1), nn.AvgPool2d((1, 2))
    )
    whole = nn.Sequential(net, Adder2d(4, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    layout = Layout(plan=make_plan(whole, (2, 11, 11)), bits=4)
    first, pooled, mean, adder, last = list(layout.units.values())[1:]
    assert (first, pooled, adder) == (1.0, 1 / 9, 1.0)
    assert mean == pytest.approx(1 / 18)
    assert last == pytest.approx(1 / 3)
