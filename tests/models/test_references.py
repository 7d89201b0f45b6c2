from __future__ import annotations

import functools
import itertools
import types
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mulfree import models
from mulfree.errors import ConfigError

GLOBAL: list[nn.Module] = []


class Net(nn.Module):
    """Two convolutions, the second of which `hold` makes an attribute of."""

    def __init__(self, hold: Callable[[nn.Conv2d], object]) -> None:
        super().__init__()
        self.body = nn.Module()
        self.body.first = nn.Conv2d(3, 3, 1)
        self.body.norm = nn.BatchNorm2d(3)
        self.body.second = nn.Conv2d(3, 3, 1)
        vars(self.body)["held"] = hold(self.body.second)


@dataclass
class Holder:
    layer: object


class Slotted:
    __slots__ = ("layer",)

    def __init__(self, layer: object) -> None:
        self.layer = layer


def closure(layer: nn.Module) -> Callable[[Tensor], Any]:
    return lambda images: layer(images)


def hidden(layer: nn.Module) -> list[nn.Module]:
    return [nn.Sequential(nn.ReLU(), layer)]


def weak(layer: nn.Module) -> object:
    return weakref.ref(layer)


def compiled_forward(layer: nn.Module) -> object:
    compiled: Any = torch.compile(layer)
    return compiled.forward


def itself(layer: nn.Module) -> list[Any]:
    endless: list[Any] = [layer]
    endless.insert(0, endless)
    return endless


def cached(layer: nn.Module) -> Callable[[], nn.Module]:
    holder = {"layer": layer}
    get = functools.lru_cache(maxsize=1)(lambda: holder.pop("layer"))
    get()
    return get


HOLDS: list[Callable[[nn.Conv2d], object]] = [
    lambda layer: layer,
    lambda layer: [layer],
    lambda layer: [{"a": (deque([{layer: "b"}]),)}],
    lambda layer: types.MappingProxyType({"layer": layer}),
    lambda layer: functools.partial(map, layer.forward),
    compiled_forward,
    lambda layer: torch.func.vmap(layer),
    lambda layer: layer.bias,
    lambda layer: [layer.weight.detach().flatten()],
    Holder,
    Slotted,
    lambda layer: types.SimpleNamespace(run=Holder(layer)),
    closure,
    lambda layer: lambda layer=layer: layer,
    hidden,
    weak,
    itself,
    lambda layer: iter([layer]),
    itertools.repeat,
    lambda layer: enumerate({"layer": layer}.values()),
    lambda layer: (layer for _ in range(1)),
    cached,
    lambda layer: torch.optim.SGD(layer.parameters(), lr=0.1),
]


@pytest.mark.parametrize("hold", HOLDS)
def test_a_layer_that_is_held_otherwise_is_refused(hold: Callable[[nn.Conv2d], object]) -> None:
    model = Net(hold)
    before = dict(model.named_modules())
    message = (
        r"hold the layers .* got body.second or its weight in `held` of body, which .* keep it"
    )
    with pytest.raises(ConfigError, match=message):
        models.convert(model, keep=())
    assert dict(model.named_modules()) == before
    models.convert(model)  # The first and the last are kept.


@pytest.mark.parametrize(
    "hold",
    [
        lambda layer: None,
        lambda layer: [nn.Conv2d(3, 3, 1)],
        lambda layer: nn.Conv2d(3, 3, 1).weight,
        lambda layer: [layer.weight.detach().clone(), layer.kernel_size, torch, nn.Conv2d],
        lambda layer: torch.eye(3).to_sparse(),
        lambda layer: torch.nn.functional.conv2d,
    ],
)
def test_other_things_may_be_held(hold: Callable[[nn.Conv2d], object]) -> None:
    model = models.convert(Net(hold), keep=())
    assert type(model.get_submodule("body.second")).__name__ == "Adder2d"


def test_containers_of_layers_may_be_held() -> None:
    # A layer inside of them is looked up when it is called.
    model = Net(lambda layer: None)
    vars(model)["blocks"] = [model.body, model]
    models.convert(model, keep=())


def test_a_forward_that_names_a_global() -> None:
    class Global(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, images: Tensor) -> Any:
            return [run(images) for run in GLOBAL]

    model = Global()
    models.convert(model, keep=())
    model = Global()
    GLOBAL.append(model.conv)
    try:
        with pytest.raises(ConfigError, match=r"got conv or its weight in `forward` of Global"):
            models.convert(model, keep=())
    finally:
        GLOBAL.clear()


def test_attributes_methods_and_properties_of_the_class() -> None:
    conv = nn.Conv2d(3, 3, 1)

    def members() -> dict[str, Any]:
        return {
            "list": [conv],
            "method": lambda self: conv,
            "static": staticmethod(lambda: conv),
            "of_class": classmethod(lambda cls: conv),
            "prop": property(lambda self: conv),
            "cached": functools.cached_property(lambda self: conv),
        }

    for name, member in members().items():
        model = type("Model", (nn.Module,), {name: member})()
        model.conv = conv
        with pytest.raises(ConfigError, match=rf"got conv or its weight in `{name}` of Model"):
            models.convert(model, keep=())


def test_hooks_and_buffers_of_other_modules() -> None:
    model = Net(lambda layer: None)
    second = model.body.second
    model.register_forward_hook(lambda *_: second)
    with pytest.raises(ConfigError, match=r"weight in `_forward_hooks` of Net"):
        models.convert(model, keep=())
    model = Net(lambda layer: None)
    assert isinstance(model.body.second, nn.Conv2d)
    model.register_buffer("copy", model.body.second.weight.data)
    with pytest.raises(ConfigError, match=r"weight in `_buffers` of Net"):
        models.convert(model, keep=())


def test_a_layer_that_is_compiled_by_itself() -> None:
    compiled: Any = torch.compile(nn.Conv2d(3, 3, 1))
    model = nn.Sequential(compiled)
    with pytest.raises(ConfigError, match=r"got 0._orig_mod or its weight in `forward` of 0, "):
        models.convert(model, keep=())
