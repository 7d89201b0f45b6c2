"""Outputs of the layers of a network, recorded in its forward pass."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mulfree import models, operators
from mulfree.errors import ConfigError

STAGES = "stages"
"""In the place of a name: the last layer at each size of map."""


class Recorder:
    """What layers of a network say while it computes.

    Args:
        model: The network.
        names: Its layers.
        where: "layer" or "norm".
    """

    def __init__(self, model: nn.Module, names: Sequence[str], where: str) -> None:
        self.listening = False
        self._said: dict[str, Tensor] = {}
        for name in names:
            place = model.get_submodule(name if where == "layer" else _norm_of(model, name))
            place.register_forward_hook(_Hook(self, name, copies=where == "norm"))

    def taken(self) -> dict[str, Tensor]:
        """What was said, which is forgotten here."""
        said, self._said, self.listening = self._said, {}, False
        return said

    def hear(self, name: str, y: Tensor) -> None:
        """Keeps what a layer says, if somebody wants to know."""
        if self.listening:
            self._said[name] = y


class _Hook:
    """Tells a reader the result of a module.

    No function, of which a copy of the network, such as its moving average, would have the same.
    """

    def __init__(self, reader: Recorder, name: str, *, copies: bool) -> None:
        self._reader = reader
        self._name = name
        # An activation in place may change what a normalisation has made.
        self._copies = copies

    def __call__(self, module: nn.Module, args: Any, y: Tensor) -> None:
        self._reader.hear(self._name, y.clone() if self._copies else y)


def layers_of(model: nn.Module, kinds: Sequence[str]) -> dict[str, Any]:
    """The layers with windows that are of one of these operators, by name."""
    classes = tuple(operators.get_operator(kind).conv for kind in kinds)
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, classes)}


def choose_layers(
    model: nn.Module, layers: dict[str, nn.Module], patterns: Sequence[str]
) -> list[str]:
    """Names that the patterns stand for, in order of registration."""
    chosen: set[str] = set()
    for pattern in patterns:
        found = _stage_ends(model, layers) if pattern == STAGES else fnmatch.filter(layers, pattern)
        if not found:
            near = difflib.get_close_matches(pattern, layers, n=1)
            raise ConfigError(
                f"pkkd: `layers` must be {STAGES} or name layers of the student's operator, "
                f"got {pattern!r}" + (f"; did you mean {near[0]!r}?" if near else "")
            )
        chosen |= set(found)
    return [name for name in layers if name in chosen]


@torch.no_grad()
def _stage_ends(model: nn.Module, layers: dict[str, nn.Module]) -> list[str]:
    """The layer that answers last at each size of map, found by an empty image."""
    last: dict[torch.Size, str] = {}
    handles = [
        layer.register_forward_hook(lambda _, __, y, name=name: last.update({y.shape[2:]: name}))
        for name, layer in layers.items()
    ]
    recipe = models.config_of(model)
    side = models.image_size(recipe.name)
    parameter = next(model.parameters())
    training = {module: module.training for module in model.modules()}
    try:
        model.eval()(parameter.new_zeros(1, recipe.arguments["in_channels"], side, side))
    finally:
        for module, mode in training.items():
            module.training = mode
        for handle in handles:
            handle.remove()
    return list(last.values())


def _norm_of(model: nn.Module, layer: str) -> str:
    """Name of the normalisation behind a layer: the next one that is registered."""
    names = iter(model.named_modules())
    for name, _ in names:
        if name == layer:
            break
    for name, module in names:
        if isinstance(module, _BatchNorm):
            return str(name)
    raise ConfigError(f"pkkd: `where` must be layer for {layer}, which has no normalisation")
