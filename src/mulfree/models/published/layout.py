"""Names of layers in published state dicts."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from mulfree.models.mobile.blocks import InvertedResidual
from mulfree.models.mobile.network import MobileNetwork

Names = Iterator[tuple[str, str]]
"""Pairs of the name of a layer in a network of `create_model` and in a layout."""


def _no_options(_name: str) -> Mapping[str, Any]:
    return {}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Names of the layers of published networks, by their place in ours.

    Attributes:
        title: Name of the code with these names.
        models: Glob patterns of the models that it has.
        stem: Name of the first layer.
        names: Name of every layer, for a network of `create_model`.
        options: Options of a model by name, where they differ from the defaults.
    """

    title: str
    models: tuple[str, ...]
    stem: str
    names: Callable[[nn.Module], Names]
    options: Callable[[str], Mapping[str, Any]] = _no_options

    def has(self, model: str) -> bool:
        """Return whether the code has a model."""
        return any(fnmatch.fnmatchcase(model, pattern) for pattern in self.models)


def same_names(network: nn.Module) -> Names:
    """Names of a layout with the names of `create_model`."""
    return ((name, name) for name, module in network.named_modules() if not list(module.children()))


@dataclass(frozen=True, kw_only=True)
class Place:
    """Block of a mobile network and its place.

    Attributes:
        path: Name of the block in the network.
        stage: Number of its stage.
        index: Number in its stage.
        number: Number in the network.
        has_expansion: Whether it has an expansion layer.
        has_se: Whether it has squeeze-and-excitation.
    """

    path: str
    stage: int
    index: int
    number: int
    has_expansion: bool
    has_se: bool


def places(network: nn.Module) -> Iterator[Place]:
    """Blocks of a mobile network, in order."""
    assert isinstance(network, MobileNetwork)
    number = 0
    for stage, blocks in enumerate(network.stages):
        assert isinstance(blocks, nn.Sequential)
        for index, block in enumerate(blocks):
            residual = isinstance(block, InvertedResidual)
            yield Place(
                path=f"stages.{stage}.{index}",
                stage=stage,
                index=index,
                number=number,
                has_expansion=residual and not isinstance(block.expand, nn.Identity),
                has_se=residual and not isinstance(block.se, nn.Identity),
            )
            number += 1


def pair(ours: str, conv: str, bn: str) -> Names:
    """Names of a convolution and its batch norm."""
    yield f"{ours}.conv", conv
    yield f"{ours}.bn", bn
