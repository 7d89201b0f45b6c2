"""Networks with early exits, around a registered network of stages.

References:
    arXiv 1709.01686 (BranchyNet).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from mulfree.errors import ConfigError, quoted
from mulfree.models.early_exit import EarlyExitNetwork
from mulfree.models.inner_network import InnerNetworkOptions
from mulfree.models.registry import register_model
from mulfree.models.staged import StagedNetwork


@dataclass(frozen=True, kw_only=True)
class Config(InnerNetworkOptions):
    """Options of networks with exits.

    Attributes:
        network: Registered network of stages: a residual, VGG or mobile network.
        exits: Stages that an exit follows, counted from 1; None for all but the last.
    """

    exits: list[int] | None = None

    def multiplying(self, network: nn.Module) -> list[str]:
        """Names of all classifiers, and of what multiplies in the network inside."""
        assert isinstance(network, EarlyExitNetwork)
        layers = [
            name
            for name, module in network.network.named_modules()
            if isinstance(module, nn.Conv2d)
        ]
        exits = [f"exits.{name}.fc" for name in network.exits]
        return [*super().multiplying(network), f"network.{layers[-1]}", *exits]


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
    network = options.build_staged()
    stages = _stages(options.exits, len(network.stage_blocks()))
    with torch.device("meta"):
        twin = options.build_staged()
    return EarlyExitNetwork(
        network,
        stages,
        _channels(twin, options.in_channels),
        num_classes=options.num_classes,
        norm_logits=options.norm_logits,
    )
