"""Fusion and lowering of elementwise functions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from tests.quantization.networks import outputs, warm
from torch import Tensor, nn
from torch.nn import functional

from mulfree import quantization
from mulfree.nodes.lut import Lut
from mulfree.nodes.lut.quantize import FusedLut
from mulfree.quantization.calibration import find_ranges, make_qparams
from mulfree.quantization.fake_quantize import FakeQuantize
from mulfree.quantization.fused_graph import FusedGraph, Hooks, execute
from mulfree.quantization.fusion import fuse
from mulfree.quantization.layout import QuantLayout
from mulfree.runtime import Session, reference


class Activated(nn.Module):
    """A layer, an activation, and a classifier."""

    def __init__(self, activation: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(2, 4, 3)
        self.activation = activation
        self.fc = nn.Linear(4 * 36, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.activation(self.layer(x)).flatten(1))
        return logits


def lut_of(fused: FusedGraph) -> FusedLut:
    (op,) = (op for op in fused.ops if isinstance(op, FusedLut))
    return op


MODULES: list[nn.Module] = [
    nn.SiLU(inplace=True),
    nn.Sigmoid(),
    nn.Hardswish(inplace=True),
    nn.Hardsigmoid(),
    nn.GELU(),
    nn.GELU("tanh"),
    nn.Mish(),
    nn.Tanh(),
    nn.LogSigmoid(),
    nn.ELU(0.5),
    nn.CELU(0.7),
    nn.SELU(),
    nn.LeakyReLU(0.1, inplace=True),
    nn.Softplus(2.0, 10.0),
    nn.Softsign(),
    nn.Threshold(0.02, 0.0),
    nn.Hardshrink(0.2),
    nn.Softshrink(0.2),
    nn.Tanhshrink(),
    nn.Hardtanh(-0.7, 0.4),
]
FUNCTIONS: list[Any] = [
    lambda x: functional.silu(x, inplace=True),
    lambda x: torch.sigmoid(x),
    lambda x: functional.sigmoid(x),
    lambda x: x.sigmoid_(),
    lambda x: x.tanh(),
    lambda x: torch.tanh(x),
    lambda x: functional.hardswish(x),
    lambda x: functional.hardsigmoid(x),
    lambda x: functional.gelu(x, approximate="tanh"),
    lambda x: functional.mish(x),
    lambda x: functional.logsigmoid(x),
    lambda x: functional.elu(x, 0.5),
    lambda x: functional.celu(x, alpha=0.7),
    lambda x: functional.selu(x),
    lambda x: functional.leaky_relu(x, 0.1),
    lambda x: functional.leaky_relu_(x, negative_slope=0.3),
    lambda x: functional.softplus(x, beta=2.0),
    lambda x: functional.softsign(x),
    lambda x: functional.threshold(x, 0.02, 0.0),
    lambda x: functional.hardshrink(x, 0.2),
    lambda x: functional.softshrink(x, 0.2),
    lambda x: functional.tanhshrink(x),
    lambda x: functional.hardtanh(x, -0.3, 0.3),
    lambda x: x.clamp(-0.3, 0.3),
    lambda x: torch.clip(x, max=0.3),
    lambda x: x.clamp_min(-0.3),
    lambda x: torch.clamp_max(x, 0.2),
]


@pytest.mark.parametrize("activation", [*MODULES, *FUNCTIONS])
def test_activations(activation: Any) -> None:
    """The fused operations compute the network's logits, and the table the activation."""
    net = Activated(activation)
    images = warm(net, (2, 8, 8))
    fused = fuse(net, (2, 8, 8))
    op = lut_of(fused)
    with torch.no_grad():
        exact = net(images[0].clone())
        found = execute(fused, net, images[0], Hooks())
        torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-5)
    graph = quantization.quantize(net, images)
    assert [node.op for node in graph.nodes] == ["conv2d", "lut", "linear"]
    node = graph.nodes[1]
    assert isinstance(node, Lut)
    x, y = graph.by_name[node.input], graph.by_name[node.output]
    reals = torch.from_numpy(x.scale * (np.arange(256.0) - x.zero_point))
    with torch.no_grad():
        expected = op.function(reals).numpy() / y.scale + y.zero_point
    expected = np.floor(expected + 0.5).clip(0, 255).astype(np.uint8)
    np.testing.assert_array_equal(node.table, np.tile(expected, (4, 1)))
    logits = reference.run(graph, images[0].numpy())
    np.testing.assert_array_equal(Session(graph).run(images[0].numpy()), logits)
    assert np.abs(logits - exact.numpy()).max() < 0.05 * np.abs(exact.numpy()).max()


@pytest.mark.parametrize("rectifier", [nn.ReLU(), nn.ReLU6(), nn.Hardtanh(0, 0.5)])
def test_rectifiers_are_part_of_a_layer_where_they_can(rectifier: nn.Module) -> None:
    assert not [op for op in fuse(Activated(rectifier), (2, 8, 8)).ops if isinstance(op, FusedLut)]
    # After a pooling, an activation, the images or a layer with other readers it is a table.
    for before in (nn.AvgPool2d(1), nn.Tanh(), nn.Identity()):
        net = nn.Sequential(before, rectifier, nn.Flatten(), nn.Linear(128, 3))
        assert fuse(net, (2, 8, 8)).ops[-2].path == "1"
    both = Activated(lambda x: rectifier(x) - x)
    assert lut_of(fuse(both, (2, 8, 8))).domain[0] == 0.0


@pytest.mark.parametrize(
    ("function", "low", "high"),
    [
        (nn.Sigmoid(), -6.2, 6.2),
        (nn.SiLU(), -8.4, math.inf),
        (nn.Hardswish(), -3.0, math.inf),
        (nn.Hardsigmoid(), -3.0, 3.0),
        (nn.Tanh(), -3.5, 3.5),
        (nn.Hardtanh(-1, 2), -1.0, 2.0),
        (nn.LeakyReLU(0.001), -math.inf, math.inf),
        (nn.Softplus(), -6.2, math.inf),
        (nn.Threshold(1e9, 0.0), -math.inf, math.inf),
    ],
)
def test_domains(function: nn.Module, low: float, high: float) -> None:
    op = FusedLut(output="y", shape=(1, 1, 1), input="x", path="", function=function)
    assert op.domain == pytest.approx((low, high), abs=0.1)
    assert op.unit(0.3) == 1.0


def test_the_range_before_an_activation_ends_where_it_is_flat() -> None:
    net = Activated(nn.SiLU())
    nn.init.normal_(net.layer.weight, std=8.0)
    images = [torch.randn(8, 2, 8, 8)]
    layout = QuantLayout(fused=fuse(net, (2, 8, 8)), bits=8)
    layer, op, _ = layout.fused.ops
    with torch.no_grad():
        least, greatest = net.layer(images[0]).aminmax()
    assert least < -20
    ranges = find_ranges(layout, net, images, "minmax")
    assert ranges[layer.output] == pytest.approx((op.domain[0], float(greatest)))
    assert ranges["x"] == pytest.approx((float(images[0].min()), float(images[0].max())))
    # Fake quantisation clips likewise, without a gradient there.
    qparams = {name: q.tensors() for name, q in make_qparams(layout, ranges).items()}
    x = torch.tensor([-30.0, -2.0, 3.0], requires_grad=True)
    rounded = FakeQuantize(layout, lambda name, _: qparams[name]).value(layer.output, x)
    rounded.sum().backward()
    step = float(qparams[layer.output][0])
    assert rounded.tolist() == pytest.approx([op.domain[0], -2.0, 3.0], abs=step / 2 + 1e-6)
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0, 1.0]


def test_a_value_with_another_reader_keeps_its_range() -> None:
    net = Activated(lambda x: functional.silu(x) + x)
    layout = QuantLayout(fused=fuse(net, (2, 8, 8)), bits=8)
    assert layout.domains[layout.fused.ops[0].output] == (-math.inf, math.inf)
    ends = nn.Sequential(nn.Conv2d(2, 3, 8), nn.Sigmoid(), nn.Flatten())
    layout = QuantLayout(fused=fuse(ends, (2, 8, 8)), bits=8)
    first, last = layout.fused.ops
    assert layout.domains[first.output] == pytest.approx((-6.2, 6.2), abs=0.1)
    assert layout.domains[last.output] == (-math.inf, math.inf)


def test_logits_that_are_an_activation() -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 8), nn.Sigmoid(), nn.Flatten())
    images = warm(net, (2, 8, 8))
    logits = reference.run(quantization.quantize(net, images), images[0].numpy())
    np.testing.assert_allclose(logits, outputs(net, images[0]), atol=0.01)


def test_gradients_pass_the_activation() -> None:
    net = Activated(nn.SiLU())
    images = warm(net, (2, 8, 8))
    layout = QuantLayout(fused=fuse(net, (2, 8, 8)), bits=8)
    qparams = make_qparams(layout, find_ranges(layout, net, images, "minmax"))
    tensors = {name: q.tensors() for name, q in qparams.items()}

    def gradient(hooks: Hooks) -> Tensor:
        net.zero_grad()
        execute(layout.fused, net, images[0], hooks).square().sum().backward()
        assert net.layer.weight.grad is not None
        return net.layer.weight.grad.clone()

    exact = gradient(Hooks())
    rounded = gradient(FakeQuantize(layout, lambda name, _: tensors[name]))
    assert (rounded - exact).norm() < 0.05 * exact.norm()
    assert exact.norm() > 0
