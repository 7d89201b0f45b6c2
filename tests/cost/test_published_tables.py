"""Totals of the tables of AdderNet (1912.13200) and PKKD (2009.13044), and of two mobile networks.

docs/cost.md explains the numbers in which they differ.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mulfree import cost, models
from mulfree.opcounts import OpCounts

# Multiplications of the convolutional network: first layer, classifier, all.
CIFAR_FIRST = 32 * 32 * 16 * 27
IMAGENET_FIRST = 112 * 112 * 64 * 147


def rows(name: str, classes: int, convention: str) -> dict[str, OpCounts]:
    """Rows of a table: the convolutional network, the adder network and the binary one."""
    with torch.device("meta"):
        model = models.create_model(name, num_classes=classes)
        adders = models.create_model(name, operator="adder2d", num_classes=classes)
    size = models.input_size(model)
    return {
        "CNN": cost.count(model, size, convention=convention).total.cost,
        "AddNN": cost.count(adders, size, convention=convention).total.cost,
        "BNN": cost.count(adders, size, convention=convention, binary=True).total.cost,
    }


@pytest.mark.parametrize(
    ("name", "classes", "taps"),
    [
        # Printed: 69.12 M.
        ("resnet32", 10, 69_124_736),
        # Printed: 41.17 M.
        ("resnet20", 10, 40_813_184),
        # Printed: 0.65 G.
        ("vgg_small", 10, 607_600_640),
        # Printed: 1.8 G.
        ("resnet18", 1000, 1_814_073_344),
        # Printed: 3.9 G, of the network below.
        ("resnet50", 1000, 4_089_184_256),
    ],
)
def test_tables_of_addernet(name: str, classes: int, taps: int) -> None:
    assert rows(name, classes, "paper") == {
        "CNN": OpCounts(mul=taps, add=taps),
        "AddNN": OpCounts(add=2 * taps),
        "BNN": OpCounts(add=taps, xnor=taps),
    }


@pytest.mark.parametrize(
    ("name", "classes", "taps", "ends"),
    [
        # Printed: 0.45 M #mul and 137.79 M #add; 68.67 M XNOR.
        ("resnet32", 100, 69_130_496, CIFAR_FIRST + 64 * 100),
        # Printed: 0.45 M and 81.89 M; 40.72 M.
        ("resnet20", 100, 40_818_944, CIFAR_FIRST + 64 * 100),
        # Printed: 0.05 G and 1.25 G; 0.60 G.
        ("vgg_small", 10, 607_600_640, 32 * 32 * 128 * 27 + 8192 * 10),
        # Printed: 0.1 G and 3.5 G.
        ("resnet18", 1000, 1_814_073_344, IMAGENET_FIRST + 512_000),
        ("resnet50", 1000, 4_089_184_256, IMAGENET_FIRST + 2_048_000),
    ],
)
def test_tables_of_pkkd(name: str, classes: int, taps: int, ends: int) -> None:
    assert rows(name, classes, "exact") == {
        "CNN": OpCounts(mul=taps, add=taps),
        "AddNN": OpCounts(mul=ends, add=2 * taps - ends),
        "BNN": OpCounts(mul=ends, add=taps, xnor=taps - ends),
    }


def test_resnet50_of_the_tables_has_its_stride_in_the_first_layer_of_a_block() -> None:
    with torch.device("meta"):
        model = models.create_model("resnet50", num_classes=1000)
    moved = 0
    for block in model.modules():
        layers = [layer for layer in block.children() if isinstance(layer, nn.Conv2d)]
        if len(layers) == 3 and layers[1].stride == (2, 2):
            layers[0].stride, layers[1].stride = (2, 2), (1, 1)
            moved += 1
    assert moved == 3
    taps = cost.count(model, (3, 224, 224)).total.cost.mul
    # Printed: 3.9 G multiplications and, of the adder network, 7.7 G additions.
    assert taps == 3_857_973_248
    assert (round(taps / 1e9, 1), round(2 * taps / 1e9, 1)) == (3.9, 7.7)


def test_printed_totals_of_resnet20_and_32_do_not_fit_each_other() -> None:
    # Two blocks of two layers more in each of three stages, of equal cost each.
    layer = 32 * 32 * 16 * 9 * 16
    deeper, shallower = (rows(name, 10, "paper")["CNN"].mul for name in ("resnet32", "resnet20"))
    assert deeper - shallower == 12 * layer
    assert (69.12e6 - 41.17e6) / layer == pytest.approx(11.85, abs=0.01)


# Of the papers: expansion, kernel, stride, channels, layers of each stage.
B0 = (
    *((1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3)),
    *((6, 5, 1, 112, 3), (6, 5, 2, 192, 4), (6, 3, 1, 320, 1)),
)
V2 = (
    *((1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 3, 2, 32, 3), (6, 3, 2, 64, 4)),
    *((6, 3, 1, 96, 3), (6, 3, 2, 160, 3), (6, 3, 1, 320, 1)),
)


class Gate(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = self.expand(F.silu(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * gate.sigmoid()


def conv(c_in: int, c_out: int, kernel: int, stride: int, groups: int, act: str) -> nn.Sequential:
    padding = kernel // 2
    layer = nn.Conv2d(c_in, c_out, kernel, stride, padding, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(c_out), getattr(nn, act)())


def mobile(stages: tuple[tuple[int, ...], ...], act: str, gated: bool) -> nn.Sequential:
    def layers() -> Iterator[nn.Module]:
        yield conv(3, 32, 3, 2, 1, act)
        channels = 32
        for expansion, kernel, stride, made, repeats in stages:
            for index in range(repeats):
                inner = channels * expansion
                if expansion > 1:
                    yield conv(channels, inner, 1, 1, 1, act)
                yield conv(inner, inner, kernel, 1 if index else stride, inner, act)
                if gated:
                    yield Gate(inner, channels // 4)
                yield conv(inner, made, 1, 1, 1, "Identity")
                channels = made
        yield from (conv(320, 1280, 1, 1, 1, act), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        yield nn.Linear(1280, 1000)

    return nn.Sequential(*layers())


def test_efficientnet_b0() -> None:
    with torch.device("meta"):
        profile = cost.count(mobile(B0, "SiLU", gated=True), (3, 224, 224))
    total = profile.total
    # 5.3 M parameters and 0.39 G multiply-adds are printed (1905.11946, Table 2).
    assert total.params == 5_288_548
    gates = sum(layer.cost.mul for layer in profile.layers if layer.kind == "mul")
    assert gates == 2_306_528
    assert total.cost.add == total.cost.mul - gates == 385_814_752
    # SiLU of 16 expansions but one, as many depthwise layers, first and last; 16 gates.
    assert total.cost.lookup == 6_166_876
    assert profile.uncounted == ()


def test_mobilenet_v2() -> None:
    with torch.device("meta"):
        total = cost.count(mobile(V2, "ReLU6", gated=False), (3, 224, 224)).total
    # 3.4 M parameters and 0.30 G multiply-adds are printed (1801.04381, Table 4).
    assert total.params == 3_504_872
    assert total.cost == OpCounts(mul=300_774_272, add=300_774_272)
