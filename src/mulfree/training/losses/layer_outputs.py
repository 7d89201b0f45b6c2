"""Outputs of the layers of a network, recorded in its forward pass."""

from __future__ import annotations

import difflib
import fnmatch
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mulfree import models, operators
from mulfree.errors import ConfigError

STAGES = "stages"
"""Stands for the last layer at each size of map."""


class OutputRecorder:
    """Outputs of some layers of a network.

    Args:
        model: The network.
        names: Its layers.

    Attributes:
        active: Whether outputs are recorded.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self.active = False
        self._outputs: dict[str, Tensor] = {}
        for name in names:
            # Not a closure: deep copies of the network (the EMA) must get a hook of their own.
            model.get_submodule(name).register_forward_hook(functools.partial(self._record, name))

    def pop(self) -> dict[str, Tensor]:
        """Return the recorded outputs, clear them and stop recording."""
        outputs, self._outputs, self.active = self._outputs, {}, False
        return outputs

    def _record(self, name: str, module: nn.Module, args: Any, y: Tensor) -> None:
        if self.active:
            self._outputs[name] = y


def layers_of(model: nn.Module, kinds: Sequence[str]) -> dict[str, Any]:
    """Layers with a sliding window of one of these operators, by name."""
    classes = tuple(operators.get_operator(kind).conv for kind in kinds)
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, classes)}


def choose_layers(
    model: nn.Module, layers: dict[str, nn.Module], patterns: Sequence[str]
) -> list[str]:
    """Names that the patterns match, in order of registration.

    Raises:
        ConfigError: A pattern matches nothing.
    """
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
    """Last layer at each size of map, found by a forward pass of zeros."""
    last: dict[torch.Size, str] = {}
    handles = [
        layer.register_forward_hook(lambda _, __, y, name=name: last.update({y.shape[2:]: name}))
        for name, layer in layers.items()
    ]
    config = models.config_of(model)
    side = models.image_size(config.name)
    parameter = next(model.parameters())
    training = {module: module.training for module in model.modules()}
    try:
        model.eval()(parameter.new_zeros(1, config.arguments["in_channels"], side, side))
    finally:
        for module, mode in training.items():
            module.training = mode
        for handle in handles:
            handle.remove()
    return list(last.values())
