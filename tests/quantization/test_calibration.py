from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tests.quantization.networks import named, warm
from torch import nn

from mulfree.errors import ConfigError
from mulfree.nn import Adder2d
from mulfree.quantization.calibration import correct_norms, find_ranges, make_grids
from mulfree.quantization.fused_ops import Layer
from mulfree.quantization.fusion import make_plan
from mulfree.quantization.qparams import Grid, Layout


def layout_of(net: nn.Module, shape: tuple[int, int, int], bits: int = 4) -> Layout:
    return Layout(plan=make_plan(net, shape), bits=bits)


def test_ranges_are_the_hull_of_all_batches() -> None:
    net = named("resnet20", "adder2d", width=0.125)
    images = warm(net, (3, 16, 16))
    layout = layout_of(net, (3, 16, 16))
    ranges = find_ranges(layout, net, images, "minmax")
    assert ranges.keys() == layout.grids.keys()
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
    images, first, mean, last = layout.grids
    ranges = {images: (-1.0, 2.0), first: (0.0, 3.3), mean: (0.0, 1.7), last: (0.0, 0.9)}
    grids = make_grids(layout, ranges, shift_only=True)
    factors = [
        grids[images].scale,
        grids[images].scale / grids[first].scale,
        grids[first].scale / 9 / grids[mean].scale,
        grids[mean].scale / 9 / grids[last].scale,
    ]
    assert [math.frexp(factor)[0] for factor in factors] == [0.5] * 4
    assert all(grids[name].high >= ranges[name][1] for name in ranges)


def test_a_copy_without_a_range_has_its_values() -> None:
    net = named("resnet20", "adder2d", width=0.125)
    layout = layout_of(net, (3, 16, 16))
    ranges = {name: (0.0, float(i + 1)) for i, name in enumerate(layout.roots.values())}
    grids = make_grids(layout, ranges)
    copy = grids["layer1_0_relu2.copy"]
    assert copy.bits == 4
    assert copy.high == pytest.approx(grids["layer1_0_relu2"].high)
    del ranges["layer1_0_relu1"]
    with pytest.raises(ConfigError, match=r"`ranges` must hold .* got none of layer1_0_relu1"):
        make_grids(layout, ranges)


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
        make_grids(layout, dict.fromkeys(layout.grids, limits))


def test_norms_are_corrected_for_what_rounding_does() -> None:
    torch.manual_seed(0)
    layer, norm = Adder2d(4, 4, 3), nn.BatchNorm2d(4)
    conv = nn.Conv2d(2, 4, 1)
    first = nn.Sequential(conv, nn.ReLU())
    net = nn.Sequential(first, layer, norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    nn.init.uniform_(layer.weight, 0, 2)
    images = warm(net, (2, 12, 12))
    assert norm.running_mean is not None
    assert norm.running_var is not None
    # Statistics of other images, which are moved, not replaced.
    norm.running_mean += 5.0
    norm.running_var *= 3.0
    mean, variance = norm.running_mean.clone(), norm.running_var.clone()
    layout = layout_of(net, (2, 12, 12))
    grids = make_grids(layout, find_ranges(layout, net, images, "minmax"))
    source, operand = layout.plan.input, layout.plan.steps[0].output
    assert isinstance(layout.plan.steps[0], Layer)
    kernel = conv.weight
    step = kernel.detach().abs().amax((1, 2, 3), keepdim=True) / 127
    correct_norms(layout, net, images, grids)
    # By hand: what the layer makes of its input, and of both rounded.
    with torch.no_grad():
        x = torch.cat([first(batch) for batch in images])
        kernel.copy_((kernel / step).round() * step)
        fine = torch.cat([first(rounded(batch, grids[source])) for batch in images])
        grid = grids[operand]
        exact = layer(x)
        layer.weight.copy_(
            rounded(layer.weight, grid) + layer.weight - layer.weight.clamp(grid.low, grid.high)
        )
        coarse = layer(rounded(fine, grid))
    moved = (coarse - exact).mean((0, 2, 3))
    torch.testing.assert_close(norm.running_mean - mean, moved, atol=1e-4, rtol=1e-4)
    ratio = coarse.var((0, 2, 3)) / exact.var((0, 2, 3))
    torch.testing.assert_close(norm.running_var / variance, ratio, atol=0.01, rtol=0.01)
    # The rounding does something to correct.
    assert moved.abs().max() > 0.1
    assert not norm.training


def rounded(x: torch.Tensor, grid: Grid) -> torch.Tensor:
    q = (x / grid.scale).round() + grid.zero
    return grid.scale * (q.clamp(0, grid.top) - grid.zero)


def test_a_filter_without_variance_is_not_corrected() -> None:
    conv, norm = nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4)
    nn.init.zeros_(conv.weight)
    net = nn.Sequential(conv, norm, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images = warm(net, (2, 4, 4))
    layout = layout_of(net, (2, 4, 4))
    grids = make_grids(layout, find_ranges(layout, net, images, "minmax"))
    correct_norms(layout, net, images, grids)
    assert norm.running_var is not None
    assert norm.running_var.tolist() == [0.0] * 4
