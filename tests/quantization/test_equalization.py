from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.quantization.networks import outputs, warm
from tests.quantization.test_calibration import layout_of
from tests.quantization.test_channel_groups import Inverted
from torch import Tensor, nn

from mulfree.nn import Adder2d
from mulfree.quantization import quantize
from mulfree.quantization.channel_groups import channel_groups
from mulfree.quantization.equalization import (
    channel_factors,
    channel_peaks,
    equalize,
    rescaled,
)
from mulfree.quantization.fusion import fuse
from mulfree.runtime import reference

SHAPE = (3, 8, 8)


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return Inverted()


@pytest.fixture
def images(net: nn.Module) -> list[Tensor]:
    return warm(net, SHAPE)


def logits(net: nn.Module, x: Tensor) -> Tensor:
    y: Tensor = net(x)
    return y


def test_the_rescaled_network_has_the_same_logits(net: nn.Module, images: list[Tensor]) -> None:
    net, x = net.double(), torch.cat(images).double()
    for parameter in net.get_submodule("stem_bn").parameters():
        parameter.requires_grad_(False).div_(4)
    fused = fuse(net, SHAPE)
    stem, depthwise, residual = channel_groups(fused, net)
    factors = {
        # No number moves beyond the ceiling of 6.
        "relu6": torch.tensor([1.0, 1.5, 1.25, 1.1], dtype=torch.double),
        "relu": torch.tensor([0.5, 3.0, 7.0, 1.0], dtype=torch.double),
        **dict.fromkeys(residual.values, torch.linspace(0.3, 3.0, 6, dtype=torch.double)),
    }
    assert {*stem.values, *depthwise.values, *residual.values} == factors.keys()
    with torch.no_grad():
        before = logits(net, x)
        made = rescaled(fused, net, factors)
        torch.testing.assert_close(logits(made, x), before, rtol=1e-12, atol=1e-12)
        # The given network is not changed.
        assert torch.equal(logits(net, x), before)
    found = channel_peaks(fused, made, [x])
    for name, peak in channel_peaks(fused, net, [x]).items():
        torch.testing.assert_close(found[name], peak * factors.get(name, 1.0))


def test_peaks_are_magnitudes_over_all_batches() -> None:
    first = nn.Conv2d(1, 2, 1, bias=False)
    net = nn.Sequential(first, nn.Conv2d(2, 1, 1), nn.Flatten())
    with torch.no_grad():
        first.weight.copy_(torch.tensor([1.0, -2.0]).view(2, 1, 1, 1))
    batches = [torch.tensor([[[[0.5]]]]), torch.tensor([[[[-3.0]]], [[[2.0]]]])]
    peaks = channel_peaks(fuse(net, (1, 1, 1)), net, batches)
    assert peaks["_0"].tolist() == [3.0, 6.0]


def test_channels_of_depthwise_layers_get_the_largest_range(net: nn.Module) -> None:
    stem, _, _ = channel_groups(fuse(net.eval(), SHAPE), net)
    peaks = {"relu6": torch.tensor([6.0, 2.0, 0.01, 0.0])}
    # A dead channel has a factor of 1; none is above 4.
    assert channel_factors(net, stem, peaks).tolist() == [1, 3, 4, 1]


def test_factors_of_products_weigh_values_and_weights(net: nn.Module) -> None:
    _, group, _ = channel_groups(fuse(net.eval(), SHAPE), net)
    weight = torch.full((6, 4, 1, 1), 0.1)
    weight[:, 0] = 1.0
    weight[2, 1] = 0.5
    net.get_submodule("project").weight = nn.Parameter(weight)
    peaks = {"relu": torch.tensor([2.0, 1.0, 0.5, 2.0])}
    # sqrt(w / m) with w = 1, 0.5, 0.1, 0.1 and m = 1, 0.5, 0.25, 1; times m at most 1.
    expected = torch.tensor([1.0, 1.0, 0.4**0.5, 0.1**0.5])
    torch.testing.assert_close(channel_factors(net, group, peaks), expected)
    # A ceiling allows no factor below 1.
    assert channel_factors(net, replace(group, ceiling=True), peaks).tolist() == [1] * 4


def unequal(net: nn.Module) -> None:
    """Give the channels of the stem ranges of 1 to 1/3, and take this back in the next layer."""
    small = torch.tensor([1.0, 1 / 2, 1 / 2, 1 / 3])
    stem, depthwise = net.get_submodule("stem_bn"), net.get_submodule("depthwise")
    assert isinstance(stem.weight, Tensor)
    assert isinstance(stem.bias, Tensor)
    assert isinstance(depthwise.weight, Tensor)
    with torch.no_grad():
        stem.weight *= small
        stem.bias *= small
        depthwise.weight /= small.view(4, 1, 1, 1)


def test_equalised_channels_round_better(net: nn.Module, images: list[Tensor]) -> None:
    unequal(net)
    layout = layout_of(net, SHAPE, 8)
    made = equalize(layout, net, images, observer="minmax")
    with torch.no_grad():
        for batch in images:
            torch.testing.assert_close(
                logits(made, batch), logits(net, batch), rtol=1e-4, atol=1e-5
            )
    before = channel_peaks(layout.fused, net, images)["relu6"]
    after = channel_peaks(layout.fused, made, images)["relu6"]
    assert 2 < before.max() / before.min() < 4
    torch.testing.assert_close(after, before.max().expand(4))


def test_integers_of_equalised_channels_are_closer(net: nn.Module, images: list[Tensor]) -> None:
    unequal(net)
    x = torch.cat(images)

    def error(equalize: bool) -> float:
        graph = quantize(net, images, bias_correction=False, equalize=equalize)
        return float(np.square(reference.run(graph, x.numpy()) - outputs(net, x)).sum())

    assert error(True) < 0.9 * error(False)


def test_a_network_without_groups_is_returned_itself() -> None:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 4, 1), Adder2d(4, 4, 3), nn.BatchNorm2d(4)
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images = warm(net, (1, 6, 6), size=2)
    assert equalize(layout_of(net, (1, 6, 6), 8), net, images, observer="minmax") is net


def test_nothing_is_equalised_for_a_larger_error() -> None:
    first, last = nn.Conv2d(1, 2, 1, bias=False), nn.Conv2d(2, 1, 1)
    with torch.no_grad():
        # Eight bits represent weights and values exactly.
        first.weight.copy_(torch.tensor([255.0, 127.0]).view(2, 1, 1, 1))
        last.weight.copy_(torch.tensor([127.0, 127.0]).view(1, 2, 1, 1))
    net = nn.Sequential(first, last, nn.Flatten())
    images = [torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)]
    layout = layout_of(net, (1, 1, 1), 8)
    assert equalize(layout, net, images, observer="minmax") is net
    # The groups exist.
    assert len(channel_groups(layout.fused, net)) == 1
