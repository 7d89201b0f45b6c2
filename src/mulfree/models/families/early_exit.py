"""Networks with early exits, around a registered network of stages.

References:
    arXiv 1709.01686 (BranchyNet).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mulfree.errors import ConfigError, quoted
from mulfree.models.early_exit import EarlyExitNetwork
from mulfree.models.registry import (
    COMMON_OPTIONS,
    ModelOptions,
    build_network,
    inner_options,
    register_model,
)
from mulfree.models.staged import StagedNetwork


@dataclass(frozen=True, kw_only=True)
class Config(ModelOptions):
    """Options of networks with exits.

    Attributes:
        network: Registered network of stages: a residual, VGG or mobile network.
        network_options: Options of that network beside `num_classes`, `in_channels`,
            `norm_logits` and `width`, which the whole has; None for its defaults.
        exits: Stages that an exit follows, counted from 1; None for all but the last.
    """

    network: str = "resnet20"
    network_options: dict[str, Any] | None = None
    exits: list[int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        own = self.network_options or {}
        for name in COMMON_OPTIONS:
            if name in own:
                raise ConfigError(
                    f"create_model: `network_options` must leave {name} to the option of the "
                    f"whole, got {quoted(own[name])}"
                )

    def inner(self) -> ModelOptions:
        """Return the options of the network inside."""
        shared = {name: getattr(self, name) for name in COMMON_OPTIONS}
        return inner_options(self.network, {**shared, **(self.network_options or {})})

    def multiplying(self, network: nn.Module) -> list[str]:
        """Names of all classifiers, and of what multiplies in the network inside."""
        assert isinstance(network, EarlyExitNetwork)
        own = self.inner().multiplying(network.network)
        layers = [
            name
            for name, module in network.network.named_modules()
            if isinstance(module, nn.Conv2d)
        ]
        exits = [f"exits.{name}.fc" for name in network.exits]
        return [*(f"network.{name}" for name in (*own, layers[-1])), *exits]


def _stages(exits: list[int] | None, count: int) -> list[int]:
    """Return the stages that an exit follows.

    Raises:
        ConfigError: They are not rising numbers of stages before the last one.
    """
    if exits is None:
        exits = list(range(1, count))
    valid = all(type(stage) is int and 1 <= stage < count for stage in exits)
    if not valid or not exits or sorted(set(exits)) != exits:
        raise ConfigError(
            f"create_model: `exits` must be rising numbers of stages from 1 to {count - 1}, "
            f"got {quoted(exits)}"
        )
    return exits


def _channels(network: StagedNetwork, in_channels: int) -> list[int]:
    """Return the channels of the output of each stage of a network on the meta device."""
    network.eval()
    side = max(network.minimum_side, 32)
    x = network.run_stem(torch.zeros(1, in_channels, side, side, device="meta"))
    found = []
    for names in network.stage_blocks():
        x = network.run_blocks(names, x)
        found.append(x.shape[1])
    return found


@register_model
def early_exit(options: Config) -> nn.Module:
    """A network with exits, by default ResNet-20 with one after its first and second stage."""
    network = build_network(options.network, options.inner())
    if not isinstance(network, StagedNetwork):
        raise ConfigError(
            "create_model: `network` must be a network of stages, as the residual, VGG and mobile "
            f"networks are, got {quoted(options.network)}"
        )
    stages = _stages(options.exits, len(network.stage_blocks()))
    with torch.device("meta"):
        twin = build_network(options.network, options.inner())
    assert isinstance(twin, StagedNetwork)
    return EarlyExitNetwork(
        network,
        stages,
        _channels(twin, options.in_channels),
        num_classes=options.num_classes,
        norm_logits=options.norm_logits,
    )
