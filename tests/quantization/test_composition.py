"""Activations spelled by hand: one table each."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tests.quantization.networks import warm
from torch import Tensor, nn
from torch.nn import functional

from mulfree.nodes.add.quantize import FusedAdd
from mulfree.nodes.fusing import Composition
from mulfree.nodes.gate.quantize import FusedGate
from mulfree.nodes.lut.quantize import FusedLut
from mulfree.quantization.fused_graph import Hooks, execute
from mulfree.quantization.fused_ops import FusedOp
from mulfree.quantization.fusion import fuse


class Spelled(nn.Module):
    """A function after a layer, with modules of its own."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.fc = nn.Conv2d(2, 4, 3), nn.Linear(4, 3)
        self.relu6, self.sigmoid = nn.ReLU6(inplace=True), nn.Sigmoid()
        self.pool, self.function = nn.AdaptiveAvgPool2d(1), function

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.pool(self.function(self, self.layer(x))).flatten(1))
        return logits


def fused_of(function: Any) -> tuple[FusedOp, ...]:
    """Operations between the first layer and the pooling; all compute the network's logits."""
    net = Spelled(function).double()
    images = [batch.double() for batch in warm(net.float(), (2, 8, 8))]
    net.double()
    fused = fuse(net, (2, 8, 8))
    with torch.no_grad():
        found = execute(fused, net, images[0], Hooks())
        torch.testing.assert_close(found, net(images[0].clone()), rtol=1e-9, atol=1e-9)
    return fused.ops[1:-2]


def gelu(net: Any, x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def in_place(net: Any, x: Tensor) -> Any:
    y = x + 3
    y = net.relu6(y)
    y /= 6
    y *= x
    return y


FUNCTIONS: dict[str, tuple[Any, Any]] = {
    "silu": (lambda n, x: x * torch.sigmoid(x), functional.silu),
    "silu of modules": (lambda n, x: n.sigmoid(x).mul_(x), functional.silu),
    "quick gelu": (lambda n, x: x * torch.sigmoid(1.702 * x), lambda x: x * (1.702 * x).sigmoid()),
    "hardswish": (lambda n, x: x * functional.relu6(x + 3) / 6, functional.hardswish),
    "hardswish of modules": (lambda n, x: x * (n.relu6(x + 3.0) / 6.0), functional.hardswish),
    "hardswish in place": (in_place, functional.hardswish),
    "hardswish by clamp": (lambda n, x: (x + 3).clamp(0, 6) / 6 * x, functional.hardswish),
    "hardsigmoid": (lambda n, x: n.relu6(3 + x) / 6, functional.hardsigmoid),
    "hardsigmoid by factor": (
        lambda n, x: (0.2 * x + 0.5).clamp(0, 1),
        lambda x: (x / 5 + 0.5).clip(0, 1),
    ),
    "mish": (lambda n, x: x * torch.tanh(functional.softplus(x)), functional.mish),
    "gelu": (gelu, lambda x: functional.gelu(x, approximate="tanh")),
    "exact gelu": (lambda n, x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))), functional.gelu),
    "square": (lambda n, x: x * x, torch.square),
    "squared relu": (lambda n, x: functional.relu(x) ** 2, lambda x: functional.relu(x) ** 2),
    "one minus": (lambda n, x: 1 - torch.sigmoid(x), lambda x: torch.sigmoid(-x)),
    "sum": (lambda n, x: x.add(1.5), lambda x: x + 1.5),
    "quotient": (lambda n, x: x / (1 + torch.exp(-x)), functional.silu),
    "softsign": (lambda n, x: x / (1 + x.abs()), functional.softsign),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_one_table_computes_the_function(name: str) -> None:
    function, equal = FUNCTIONS[name]
    (op,) = fused_of(function)
    assert isinstance(op, FusedLut)
    x = torch.linspace(-9, 9, 73, dtype=torch.float64)
    torch.testing.assert_close(op.compute(x.clone()), equal(x), rtol=1e-9, atol=1e-9)
    assert isinstance(op.function, Composition)


def test_what_has_other_readers_stays() -> None:
    """A function that another operation reads is a table of its own, too."""

    def function(net: Any, x: Tensor) -> Tensor:
        gate = torch.sigmoid(x)
        return x * gate + gate

    first, second, joined = fused_of(function)
    assert isinstance(first, FusedLut)
    assert isinstance(second, FusedLut)
    assert isinstance(joined, FusedAdd)
    assert {first.output, second.output} == set(joined.inputs)
    assert first.input == second.input


def test_a_rectifier_with_other_readers_stays_in_its_layer() -> None:
    def function(net: Any, x: Tensor) -> Tensor:
        y = functional.relu(x)
        return y * torch.sigmoid(y) + y

    op, joined = fused_of(function)
    assert isinstance(op, FusedLut)
    assert joined.inputs == (op.output, op.input)
    # The flat half of the rectifier joins its only reader instead.
    (op,) = fused_of(lambda n, x: (y := functional.relu(x)) * torch.sigmoid(y))
    assert op.domain[0] == 0.0


def test_sums_and_multiples_are_no_functions() -> None:
    (op,) = fused_of(lambda n, x: (x + torch.tanh(x)) / 2)[1:]
    assert isinstance(op, FusedAdd)
    assert op.factors == (0.5, 0.5)


def test_a_gate_is_composed_of_its_own_tensor() -> None:
    *_, mean, act, gate = fused_of(lambda n, x: x * (n.relu6(n.pool(x) + 3) / 6))
    assert isinstance(act, FusedLut)
    assert isinstance(gate, FusedGate)
    assert gate.gate == act.output
    assert act.input == mean.output
