"""Selection of the layers that a conversion replaces, leaves alone or keeps."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils.parametrize import type_before_parametrizations

from mulfree import operators
from mulfree.errors import ConfigError, quoted
from mulfree.models.replaceable import ReplaceableLayer, is_linear
from mulfree.operators import Operator

FIRST_AND_LAST = ("first", "last")

BASELINE = "conv2d"
"""The operator that multiplies."""

_MAX_PATTERN = 100


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Layers of a network, sorted for a conversion to an operator.

    Attributes:
        replaced: Layers of another operator, to be replaced.
        same: Layers of the operator already.
        others: Multiplying layers of unsupported classes that are not kept.
    """

    replaced: Sequence[ReplaceableLayer]
    same: Sequence[ReplaceableLayer]
    others: Sequence[ReplaceableLayer]

    @classmethod
    def of(cls, network: nn.Module, target: Operator, keep: Sequence[str], linear: bool) -> Self:
        """Sort the layers of `network` for an operator, see `mulfree.models.convert`.

        Raises:
            ConfigError: `keep` matches nothing, or the network has no layer or a lazy one.
        """
        layers = _layers(network)
        others = _other_layers(network, target, linear)
        kept = _kept(layers, others, keep)
        chosen = [
            layer
            for layer in layers
            if layer.name not in kept and (linear or not is_linear(layer.module))
        ]
        classes = _classes(target)
        return cls(
            replaced=[layer for layer in chosen if not isinstance(layer.module, classes)],
            same=[layer for layer in chosen if isinstance(layer.module, classes)],
            others=[layer for layer in others if layer.name not in kept],
        )

    @property
    def all(self) -> list[ReplaceableLayer]:
        """All layers of the operator after the conversion."""
        return [*self.replaced, *self.same]


def _classes(operator: Operator) -> tuple[type[nn.Module], ...]:
    return operator.conv, operator.linear


def _layers(model: nn.Module) -> list[ReplaceableLayer]:
    """Replaceable layers, in order of registration."""
    classes = tuple(
        cls for name in operators.OPERATORS for cls in _classes(operators.get_operator(name))
    )
    layers: dict[nn.Module, ReplaceableLayer] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, LazyModuleMixin) and isinstance(module, classes):
            raise ConfigError(
                f"convert: `model` must have no lazy layers left, got {name} = {module}; "
                "run one batch through the model first"
            )
        if type_before_parametrizations(module) in classes:
            layers.setdefault(module, ReplaceableLayer(module=module)).names.append(name)
    if not layers:
        raise ConfigError(
            "convert: `model` must contain a convolution or linear layer, "
            f"got a {type(model).__name__} without any"
        )
    return list(layers.values())


def _other_layers(model: nn.Module, target: Operator, linear: bool) -> list[ReplaceableLayer]:
    """Layers of other operators, and convolutions, of unsupported classes."""
    known = [operators.get_operator(name) for name in operators.OPERATORS]
    exact = {cls for operator in known for cls in _classes(operator)}
    other = tuple(cls for operator in known if operator != target for cls in _classes(operator))
    if target.name != BASELINE:
        other += (_ConvNd,)
    scripted = {cls.__name__ for cls in other}
    layers: dict[nn.Module, ReplaceableLayer] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, torch.jit.ScriptModule):
            found = module.original_name in scripted
        else:
            found = isinstance(module, other) and (
                type_before_parametrizations(module) not in exact
                # Torch's attention reads its weight and never calls it.
                and not isinstance(module, NonDynamicallyQuantizableLinear)
            )
        if found and (linear or not is_linear(module)):
            layers.setdefault(module, ReplaceableLayer(module=module)).names.append(name)
    return list(layers.values())


def _kept(
    layers: list[ReplaceableLayer], others: list[ReplaceableLayer], keep: Sequence[str]
) -> set[str]:
    """Return the names of kept layers; first and last are counted among `layers`."""
    if (
        isinstance(keep, str)
        or not isinstance(keep, Sequence)
        or not all(isinstance(pattern, str) for pattern in keep)
    ):
        raise ConfigError(f"convert: `keep` must be a sequence of names, got {quoted(keep)}")
    kept = set()
    for pattern in keep:
        if pattern in FIRST_AND_LAST:
            matches = {layers[0 if pattern == "first" else -1].name}
        else:
            matches = {
                layer.name
                for layer in layers + others
                if any(fnmatch.fnmatchcase(part, pattern) for part in _parts(layer.names))
            }
        if not matches:
            names = sorted({part for layer in layers + others for part in _parts(layer.names)})
            near = difflib.get_close_matches(pattern[:_MAX_PATTERN], names, n=1)
            raise ConfigError(
                "convert: `keep` must name layers of the model (or be first or last), "
                f"got {quoted(pattern)}" + (f"; did you mean {near[0]!r}?" if near else "")
            )
        kept |= matches
    return kept


def _parts(names: Iterable[str]) -> set[str]:
    """Names with all their parents: `a.b.c` gives `a`, `a.b` and `a.b.c`."""
    return {
        ".".join(parts[: end + 1])
        for parts in (name.split(".") for name in names)
        for end in range(len(parts))
    }
