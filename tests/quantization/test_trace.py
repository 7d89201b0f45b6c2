from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from tests.quantization.networks import named
from torch import Tensor, nn
from torch.nn import functional

from mulfree.errors import ConfigError
from mulfree.quantization.trace import place, trace


class Sized(nn.Module):
    """Asks for the shape of what it computes with."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        if x.shape[2] > 8 and y.shape[1] == 4:
            y = y.relu()
        return y.flatten(1)


@pytest.mark.parametrize(("side", "operations"), [(8, 2), (9, 3)])
def test_a_forward_may_depend_on_shapes(side: int, operations: int) -> None:
    _, *nodes, _ = trace(Sized(), (2, side, side)).nodes
    assert len(nodes) == operations
    assert nodes[0].meta["shape"] == (4, side - 2, side - 2)
    assert nodes[-1].meta["shape"] == (4 * (side - 2) ** 2,)


def test_the_model_is_left_as_it_was() -> None:
    model = named("resnet20", "adder2d", width=0.125).train()
    model.get_submodule("bn1").eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trace(model, (3, 16, 16))
    assert [m for m in model.modules() if not m.training] == [model.get_submodule("bn1")]
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all("forward" not in vars(module) for module in model.modules())


def test_forwards_of_instances_and_optional_arguments() -> None:
    class Masked(nn.Module):
        def forward(self, x: Tensor, mask: Tensor | None = None, *rest: int, **more: int) -> Tensor:
            return x.relu() if mask is None else x * mask

    images, relu, _ = trace(Masked(), (2, 8, 8)).nodes
    assert (images.name, relu.target) == ("x", "relu")
    model = Masked()
    setattr(model, "forward", lambda images: images.tanh())  # noqa: B010, a method to mypy
    images, tanh, _ = trace(model, (2, 8, 8)).nodes
    assert (images.name, tanh.target) == ("images", "tanh")


class Deviating(nn.Conv2d):
    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return functional.conv2d(x, 2 * weight, bias)


class Named(nn.Conv2d):
    """A layer as any other."""


def test_layers_with_forwards_of_their_own_are_followed() -> None:
    operations = [node.op for node in trace(nn.Sequential(Deviating(2, 4, 3)), (2, 8, 8)).nodes]
    assert operations == ["placeholder", *["get_attr"] * 2, *["call_function"] * 2, "output"]
    _, layer, _ = trace(nn.Sequential(Named(2, 4, 3)), (2, 8, 8)).nodes
    assert (layer.op, layer.target) == ("call_module", "0")


class Written(nn.Module):
    """A forward that is given."""

    def __init__(self, forward: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)
        self._forward = forward

    def forward(self, x: Tensor) -> Any:
        return self._forward(self, x)


def changed(net: Any, x: Tensor) -> Tensor:
    y = shortcut = net.conv(x)
    y += x
    y.relu_()
    net.conv(y)  # without effect
    product: Tensor = shortcut * y
    return product


def test_operations_in_place_and_without_effect() -> None:
    net = Written(changed)
    images, conv, add, relu, product, _ = trace(net, (2, 8, 8)).nodes
    # Also by another name a value is what was made of it.
    assert product.args == (relu, relu)
    assert add.args == (conv, images)
    assert add.name == "add"


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda n, x: n.conv(x) if x.sum() > 0 else x, "TraceError: symbolically traced variables"),
        (lambda n, x: n.conv(x[:, :1]), r"RuntimeError in conv: .* channels"),
        (lambda n, x: os.environ["NONE"], "KeyError: 'NONE'"),
        (lambda n, x: n.missing(x), "AttributeError: 'Written' object has no attribute 'missing'"),
        (lambda n, x: nn.Conv2d(2, 2, 1)(x), "TypeError: the layer Conv2d is not registered"),
        (lambda n, x: n.conv(x).view(3, 5), "RuntimeError: shape"),
        (lambda n, x: float(x.sum()), "TypeError: float"),
        (lambda n, x: exec("raise ValueError('one\\ntwo')"), r"ValueError: one\)$"),
        (lambda n, x: exec("raise ValueError('x' * 10**6)"), "ValueError: xxx"),
        (lambda n, x: object(), "NotImplementedError: argument of type"),
    ],
)
def test_forwards_that_fail(forward: Any, message: str) -> None:
    net = Written(forward)
    line = r"whose forward does not depend on the values of images \[2, 8, 8\], got Written \("
    line = f"^quantize: `model` must be a network that runs and {line}{message}"
    with pytest.raises(ConfigError, match=line) as caught:
        trace(net, (2, 8, 8))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 400
    assert net.training


def test_constants_of_a_forward_leave_no_trace() -> None:
    net = Written(lambda n, x: n.conv(x) + torch.ones(2, 8, 8))
    attributes = set(vars(net))
    nodes = list(trace(net, (2, 8, 8)).nodes)
    assert set(vars(net)) == attributes
    assert [place(node) for node in nodes[1:-1]] == [
        "conv",
        "a constant tensor",
        "operator.add in forward",
    ]


def test_places() -> None:
    inner = Written(lambda n, x: torch.relu(x).tanh())
    outer = Written(lambda n, x: n.inner(functional.relu(x)).mT * n.conv.weight.sum())
    outer.add_module("inner", inner)
    names = [
        place(node) for node in trace(outer, (2, 8, 8)).nodes if node.op[:4] in ("call", "get_")
    ]
    assert names == [
        "torch.nn.functional.relu in forward",
        "torch.relu in inner.forward",
        "Tensor.tanh in inner.forward",
        "conv.weight",
        "Tensor.sum in forward",
        "Tensor.mT in forward",
        "operator.mul in forward",
    ]


def test_sizes_are_numbers() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        found.append((x.size(), x.size(1), x.dim(), x.ndim, len(x), x.numel(), x.dtype, x.device))
        return x

    found: list[Any] = []
    trace(Written(forward), (2, 8, 8))
    cpu = torch.device("cpu")
    assert found == [(torch.Size([2, 2, 8, 8]), 2, 4, 4, 2, 256, torch.float32, cpu)]
