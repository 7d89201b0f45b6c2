from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tests.quantization.networks import named, warm
from torch import nn

from mulfree.errors import ConfigError
from mulfree.quantization.calibration import find_ranges, make_qparams
from mulfree.quantization.fusion import fuse
from mulfree.quantization.layout import QuantLayout


def layout_of(net: nn.Module, shape: tuple[int, int, int], bits: int = 4) -> QuantLayout:
    return QuantLayout(fused=fuse(net, shape), bits=bits)


def test_ranges_are_the_hull_of_all_batches() -> None:
    net = named("resnet20", "adder2d", width=0.125)
    images = warm(net, (3, 16, 16))
    layout = layout_of(net, (3, 16, 16))
    ranges = find_ranges(layout, net, images, "minmax")
    assert ranges.keys() == layout.bit_widths.keys()
    assert ranges["images"] == (
        min(float(batch.min()) for batch in images),
        max(float(batch.max()) for batch in images),
    )
    assert ranges["layer1_0_relu1"][0] == 0
    assert ranges["layer2_0_downsample_1"][0] < 0 < ranges["layer2_0_downsample_1"][1]
    assert ranges["layer1_0_relu2"] == ranges["layer1_0_relu2.copy"]
    cut = find_ranges(layout, net, images, "percentile")
    assert cut["images"] == ranges["images"]
    assert cut["layer1_0_relu1"][1] < ranges["layer1_0_relu1"][1]
    auto = find_ranges(layout, net, images, "auto")
    assert auto["layer1_0_relu2"] == ranges["layer1_0_relu2"]
    assert auto["layer1_0_relu2.copy"] == cut["layer1_0_relu2.copy"]


def test_ratios_of_scales_are_powers_of_two() -> None:
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AvgPool2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    layout = layout_of(net, (2, 11, 11), 8)
    images, first, mean, last = layout.bit_widths
    ranges = {images: (-1.0, 2.0), first: (0.0, 3.3), mean: (0.0, 1.7), last: (0.0, 0.9)}
    qparams = make_qparams(layout, ranges, power_of_two_scales=True)
    factors = [
        qparams[images].scale,
        qparams[images].scale / qparams[first].scale,
        qparams[first].scale / 9 / qparams[mean].scale,
        qparams[mean].scale / 9 / qparams[last].scale,
    ]
    assert [math.frexp(factor)[0] for factor in factors] == [0.5] * 4
    assert all(qparams[name].high >= ranges[name][1] for name in ranges)


def test_a_copy_without_a_range_has_its_values() -> None:
    net = named("resnet20", "adder2d", width=0.125)
    layout = layout_of(net, (3, 16, 16))
    ranges = {name: (0.0, float(i + 1)) for i, name in enumerate(layout.roots.values())}
    qparams = make_qparams(layout, ranges)
    copy = qparams["layer1_0_relu2.copy"]
    assert copy.bits == 4
    assert copy.high == pytest.approx(qparams["layer1_0_relu2"].high)
    del ranges["layer1_0_relu1"]
    with pytest.raises(ConfigError, match=r"`ranges` must hold .* got none of layer1_0_relu1"):
        make_qparams(layout, ranges)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -2e30])
@pytest.mark.parametrize("observer", ["minmax", "percentile"])
def test_numbers_without_a_range(observer: str, number: float) -> None:
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    layout = layout_of(net, (2, 8, 8))
    images = [torch.randn(64, 2, 8, 8)]
    net.get_parameter("0.bias").requires_grad_(False)[1] = number
    with pytest.raises(ConfigError, match=r"`model` must compute finite numbers .* to .* at 0$"):
        find_ranges(layout, net, images, observer)
    images[0][63, 1, 7, 7] = number
    with pytest.raises(ConfigError, match=r"finite numbers up to 1e\+30 .* at its input$"):
        find_ranges(layout, net, images, observer)


@pytest.mark.parametrize(
    "limits",
    [(0.0, float("nan")), (-math.inf, 0.0), (2, 1), ("a", "b"), 5, None, (1, 2, 3), (0, 1e35)],
)
def test_ranges_of_other_things(limits: Any) -> None:
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    layout = layout_of(net, (2, 8, 8))
    with pytest.raises(ConfigError, match=r"`ranges` must hold pairs of finite numbers, .* for in"):
        make_qparams(layout, dict.fromkeys(layout.bit_widths, limits))
