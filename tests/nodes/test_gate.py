"""Fusion and lowering of gates; their integers are tested over all nodes in `tests/contract`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.quantization.networks import outputs, warm
from torch import Tensor, nn

from mulfree import quantization
from mulfree.errors import ArtifactError, ConfigError
from mulfree.nodes import Value
from mulfree.nodes.gate import Gate
from mulfree.nodes.gate.quantize import FusedGate
from mulfree.opcounts import OpCounts
from mulfree.quantization.fused_graph import Hooks, execute
from mulfree.quantization.fusion import fuse
from mulfree.quantization.layout import QuantLayout
from mulfree.runtime import Session, reference

VALUES = {
    value.name: value
    for value in (
        Value(name="x", shape=(2, 3, 4), scale=0.5, zero_point=10),
        Value(name="g", shape=(2, 1, 1), scale=0.25, zero_point=1),
        Value(name="y", shape=(2, 3, 4), scale=0.5, zero_point=0),
    )
}
NODE = Gate(
    name="n",
    input="x",
    gate="g",
    output="y",
    multiplier=3,
    offset=8,
    shift=2,
    clamp_min=0,
    clamp_max=200,
)


class Gated(nn.Module):
    """A map, a gate for each of its channels, and their product by a given function."""

    def __init__(self, product: Any, relu: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.product, self.relu = product, relu
        self.map, self.gate = nn.Conv2d(2, 4, 3), nn.Conv2d(2, 4, 1)
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.product(self.map(x), self.gate(self.pool(x)).sigmoid())
        logits: Tensor = self.fc(self.pool(torch.relu(y) if self.relu else y).flatten(1))
        return logits


def test_the_definition_by_hand() -> None:
    x, g = np.zeros((1, 3, 4, 2), np.uint8), np.array([[[[0, 255]]]], np.uint8)
    x[0, 0, 0] = 20, 11
    y = reference.evaluate(NODE, VALUES, {"x": x, "g": g})
    # (10 * -1 * 3 + 8 + 2) >> 2 is -5, (1 * 254 * 3 + 10) >> 2 is 193.
    assert y[0, 0, 0].tolist() == [0, 193]
    # (-10 * -1 * 3 + 10) >> 2 is 10.
    assert y[0, 1, 1].tolist() == [10, 0]


def test_counts_and_shapes() -> None:
    assert NODE.inputs == ("x", "g")
    assert NODE.operations(VALUES) == {
        "int8": OpCounts(mul=24),
        "int32": OpCounts(mul=24, add=24),
    }
    assert replace(NODE, multiplier=4).count(VALUES) == OpCounts(mul=24, add=24)
    assert NODE.output_shape(VALUES) == (2, 3, 4)
    with pytest.raises(ArtifactError, match=r"`n.gate` must have the shape \[2, 1, 1\], got \(2, "):
        replace(NODE, gate="x").output_shape(VALUES)
    with pytest.raises(ArtifactError, match=r"`n.multiplier` must keep the sum below 2\*\*62"):
        replace(NODE, offset=2**62 - 3 * 255**2).output_shape(VALUES)


PRODUCTS: list[Any] = [
    lambda x, g: x * g,
    lambda x, g: g * x,
    torch.mul,
    lambda x, g: torch.multiply(input=g, other=x),
    lambda x, g: x.mul(g),
    lambda x, g: x.mul_(g),
    lambda x, g: x * g.expand(-1, 4, *x.shape[2:]),
    lambda x, g: x * g.flatten(1).view(len(x), 4, 1, 1).expand_as(x),
    lambda x, g: x * torch.broadcast_to(g, x.shape),
]


def in_place(x: Tensor, g: Tensor) -> Tensor:
    x *= g
    return x


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("product", [*PRODUCTS, in_place])
def test_spellings(product: Any, relu: bool) -> None:
    net = Gated(product, relu).double()
    fused = fuse(net, (2, 8, 8))
    (gate,) = (op for op in fused.ops if isinstance(op, FusedGate))
    shapes = {op.output: op.shape for op in fused.ops}
    assert (gate.shape, gate.relu) == ((4, 6, 6), relu)
    assert [shapes[name] for name in gate.inputs] == [(4, 6, 6), (4, 1, 1)]
    images = torch.randn(3, 2, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        found = execute(fused, net, images, Hooks())
        torch.testing.assert_close(found, net(images), rtol=1e-12, atol=1e-12)


def test_a_gate_of_a_single_pixel() -> None:
    net = Gated(torch.mul)
    net.map = nn.Conv2d(2, 4, 8)
    images = warm(net, (2, 8, 8))
    graph = quantization.quantize(net, images)
    (node,) = (node for node in graph.nodes if isinstance(node, Gate))
    assert [graph.by_name[name].shape for name in node.inputs] == [(4, 1, 1)] * 2
    exact = outputs(net, images[0])
    assert np.abs(Session(graph).run(images[0].numpy()) - exact).max() < 0.03 * np.abs(exact).max()


@pytest.mark.parametrize("power_of_two_scales", [False, True])
def test_the_sums_take_30_bits_and_the_products_are_exact(power_of_two_scales: bool) -> None:
    net = Gated(torch.mul, relu=True)
    images = warm(net, (2, 8, 8))
    graph = quantization.quantize(net, images, power_of_two_scales=power_of_two_scales)
    (node,) = (node for node in graph.nodes if isinstance(node, Gate))
    assert 2**28 < 255**2 * node.multiplier + node.offset + 2 ** (node.shift - 1) < 2**30
    if power_of_two_scales:
        assert node.multiplier & (node.multiplier - 1) == 0
    made = reference.trace(graph, images[0].numpy())
    x, g, y = (graph.by_name[name] for name in (node.input, node.gate, node.output))
    assert node.clamp_min == y.zero_point
    reals = [v.scale * (made[v.name].astype(float) - v.zero_point) for v in (x, g)]
    expected = np.maximum(reals[0] * reals[1], 0.0)
    found = y.scale * (made[y.name].astype(float) - y.zero_point)
    # Half a step, and what 14 bits of the factor leave out.
    assert np.abs(found - expected).max() <= 0.52 * y.scale
    rows = Session(graph).profile(images[0].numpy(), runs=1)
    assert [row.kernel for row in rows if row.op == "gate"] == ["gate: 32 bits"]


def test_both_operands_keep_eight_bits() -> None:
    fused = fuse(Gated(torch.mul), (2, 8, 8))
    layout = QuantLayout(fused=fused, bits=4)
    (gate,) = (op for op in fused.ops if isinstance(op, FusedGate))
    assert [layout.bit_widths[name] for name in gate.inputs] == [8, 8]
    # A gate's unit is the product of those of its operands.
    assert gate.unit(0.5, 0.25) == 0.125


def test_too_large_factors_are_refused() -> None:
    net = Gated(torch.mul)
    nn.init.constant_(net.map.weight, 1e7)
    fused = fuse(net, (2, 8, 8))
    ranges = {op.output: (0.0, 1e7) for op in fused.ops} | {"x": (-1.0, 1.0), "mul": (0.0, 1e-3)}
    line = r"factors that fit 31 bits, got .* at mul$"
    with pytest.raises(ConfigError, match=line):
        quantization.quantize(net, warm(net, (2, 8, 8)), ranges=ranges)
