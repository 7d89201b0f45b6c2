from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from tests.quantization.networks import named, warm
from torch import Tensor, nn
from torch.nn import functional

from mulfree.errors import ConfigError
from mulfree.nn import Adder2d, AdderLinear
from mulfree.quantization.grouping import make_plan
from mulfree.quantization.plan import Hooks, Plan, execute
from mulfree.quantization.steps import Add, Layer, MaxPool, Mean, Pad, Repeat, Window


class Net(nn.Module):
    """A forward made of modules that are given by name."""

    def __init__(self, forward: Any, **modules: nn.Module) -> None:
        super().__init__()
        self._function = forward
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self._function(self, x)
        return result


def head(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3))


def plan_of(net: nn.Module, shape: tuple[int, int, int] = (2, 8, 8)) -> Plan:
    """The plan, which computes what the network does."""
    warm(net, shape)
    net.double()
    plan = make_plan(net, shape)
    images = torch.randn(3, *shape, dtype=torch.float64)
    with torch.no_grad():
        # Means may be summed up in another order.
        torch.testing.assert_close(
            execute(plan, net, images, Hooks()), net(images).flatten(1), rtol=1e-12, atol=1e-12
        )
    return plan


@pytest.mark.parametrize("operator", ["adder2d", "conv2d"])
@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("lenet5_bn", 28),
        ("lenet5_bn", 8),
        ("lenet5_bn", 32),
        ("vgg_small", 32),
        ("vgg_small", 16),
        ("resnet20", 32),
        ("resnet18", 64),
        ("resnet50", 32),
    ],
)
def test_families(name: str, side: int, operator: str) -> None:
    plan = plan_of(named(name, operator, width=0.125), (3, side, side))
    assert plan.classifier is not None
    assert (plan.classifier.module, plan.shape) == ("fc", (3, side, side))


def test_a_block_is_two_steps() -> None:
    plan = plan_of(named("resnet20", "adder2d", width=0.125), (3, 16, 16))
    assert len(plan.steps) == 1 + 9 * 2 + 2 + 1 + 1
    block = [step for step in plan.steps if step.path.startswith("layer2.0")]
    assert [step.path for step in block] == [
        "layer2.0.conv1",
        "layer2.0.downsample.0",
        "layer2.0.conv2",
    ]
    first, shortcut, last = block
    assert isinstance(first, Layer)
    assert isinstance(shortcut, Layer)
    assert isinstance(last, Layer)
    assert (first.norm, first.relu, first.residual) == ("layer2.0.bn1", True, None)
    assert (shortcut.norm, shortcut.relu) == ("layer2.0.downsample.1", False)
    assert (last.norm, last.relu, last.residual) == ("layer2.0.bn2", True, shortcut.output)
    assert first.input == shortcut.input
    assert last.shape == (4, 8, 8)
    assert isinstance(plan.steps[-2], Mean)
    assert plan.steps[-2].kernel == (4, 4)


def test_a_maximum_before_the_normalisation_is_part_of_the_step() -> None:
    plan = plan_of(named("vgg_small", "adder2d", width=0.0625), (3, 16, 16))
    window = Window(kernel=(2, 2), stride=(2, 2), padding=(0, 0))
    pools = [step.pool for step in plan.steps if isinstance(step, Layer)]
    assert pools == [None, window, None, window, None, window, None]
    # 2x2 positions are repeated to 4x4.
    assert isinstance(plan.steps[-2], Repeat)
    assert plan.steps[-2].factor == 2


def test_other_forms_of_the_same_operations() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        x = functional.pad(x, (1, 1, 1, 1))
        a = torch.relu(net.bn(net.one(x)))
        b = functional.relu(net.two(a))
        # A sum of two values that have other readers, too, is a step of its own.
        c = (a + b).relu()
        c = net.pool(torch.add(c, a))
        return torch.flatten(net.fc(net.mean(c)), 1)

    net = Net(
        forward,
        one=Adder2d(2, 4, 3),
        bn=nn.BatchNorm2d(4),
        two=nn.Conv2d(4, 4, 3, padding="same"),
        pool=nn.MaxPool2d(2),
        mean=nn.AvgPool2d(2),
        fc=nn.Conv2d(4, 3, 2),
    )
    plan = plan_of(net)
    kinds = [type(step) for step in plan.steps]
    assert kinds == [Pad, Layer, Layer, Add, Add, MaxPool, Mean, Layer]
    first, second = (step for step in plan.steps if isinstance(step, Add))
    assert (first.relu, second.relu) == (True, False)
    assert plan.classifier is plan.steps[-1]


def test_a_value_added_to_itself() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        y = net.one(x)
        result: Tensor = net.head(y + y)
        return result

    plan = plan_of(Net(forward, one=nn.Conv2d(2, 4, 1), head=head(4)))
    assert isinstance(plan.steps[1], Add)
    assert plan.steps[1].input == plan.steps[1].other


def test_logits_that_are_no_classifiers() -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert plan_of(net).classifier is None
    net = nn.Sequential(nn.Flatten(), AdderLinear(2 * 64, 3), nn.BatchNorm1d(3))
    plan = make_plan(net, (2, 8, 8))
    assert plan.classifier is None
    net = nn.Sequential(nn.Flatten(), nn.Linear(2 * 64, 3), nn.BatchNorm1d(3))
    assert make_plan(net, (2, 8, 8)).classifier is not None
    grouped = nn.Sequential(nn.Conv2d(2, 4, 8, groups=2), nn.Flatten())
    assert plan_of(grouped).classifier is None


REFUSED: list[tuple[str, nn.Module]] = [
    ("got Sigmoid at 1", nn.Sequential(nn.Conv2d(2, 4, 1), nn.Sigmoid(), head(4))),
    ("got torch.tanh in forward", Net(lambda n, x: n.h(torch.tanh(x)), h=head(2))),
    ("normalise the result of a layer", nn.Sequential(nn.BatchNorm2d(2), head(2))),
    (
        "normalise the result of a layer",
        nn.Sequential(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4, track_running_stats=False), head(4)),
    ),
    ("have a ReLU only behind a layer or a sum, got one at 0", nn.Sequential(nn.ReLU(), head(2))),
    ("have no dilated layers", nn.Sequential(nn.Conv2d(2, 4, 3, dilation=2), head(4))),
    (
        "pad with zeros, got padding_mode 'reflect'",
        nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"), head(4)),
    ),
    ("have plain adder layers", nn.Sequential(Adder2d(2, 4, 3, norm=1.5), head(4))),
    (
        "without dilation and ceil_mode",
        nn.Sequential(nn.MaxPool2d(2, ceil_mode=True), head(2)),
    ),
    ("means of whole windows", nn.Sequential(nn.AvgPool2d(2, padding=1), head(2))),
    ("means of windows of one size", nn.Sequential(nn.AdaptiveAvgPool2d(3), head(2))),
    ("flatten what a linear layer reads", nn.Sequential(nn.Linear(8, 3), head(2))),
    ("one number per class", nn.Sequential(nn.Conv2d(2, 4, 1))),
    ("make its logits by its last layer", Net(lambda n, x: x.flatten(1))),
    ("compute with tensors of the network alone", Net(lambda n, x: n.h(x + 1.0), h=head(2))),
    (
        "compute with tensors of the network alone",
        Net(lambda n, x: n.h(x + n.c.weight), h=head(2), c=nn.Conv2d(2, 2, 8)),
    ),
    (
        "add values of one shape",
        Net(lambda n, x: n.h(x + n.c(x)), h=head(2), c=nn.Conv2d(2, 1, 1)),
    ),
    (
        "pad rows and columns with zeros",
        Net(lambda n, x: n.h(functional.pad(x, (1, 1), value=2.0)), h=head(2)),
    ),
    (
        "enlarge by repeating pixels",
        Net(lambda n, x: n.h(functional.interpolate(x, size=(12, 12))), h=head(2)),
    ),
]


@pytest.mark.parametrize(("message", "net"), REFUSED, ids=lambda value: str(value)[:30])
def test_refused(message: str, net: nn.Module) -> None:
    with pytest.raises(ConfigError, match=r"quantize: `model` must .*" + re.escape(message)):
        make_plan(net, (2, 8, 8))
