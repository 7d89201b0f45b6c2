"""Depth-dynamic networks over any family of stages, see `mulfree.models.depth_dynamic`.

References:
    arXiv 2103.00793 (DDNN): ResNet-18/34/50/101 and VGG; three depths of the CIFAR ResNets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import nn

from mulfree.errors import ConfigError, choices_message, quoted
from mulfree.models.depth_dynamic import DepthDynamicNetwork
from mulfree.models.inner_network import InnerNetworkOptions
from mulfree.models.registry import family_of, list_models, register_model
from mulfree.models.staged import StagedNetwork
from mulfree.models.subnets import (
    DEFAULT_KEPT,
    DEFAULT_NORMS,
    BatchNorms,
    KeptBlocks,
    Subnet,
    check_layers,
    check_nesting,
    kept_blocks,
)

_MAX_SUBNETS = 16
# Options in which a sub-net may differ from the full network.
_DEPTHS = ("blocks", "depth")


@dataclass(frozen=True, kw_only=True)
class Config(InnerNetworkOptions):
    """Options of depth-dynamic networks.

    Attributes:
        network: Registered name of the full network.
        network_options: Its options, which sub-nets have too.
        subnets: Sub-nets by name: a registered network without options, or any other name with the
            option `blocks` or `depth`.
        kept_blocks: Blocks of each stage that a sub-net keeps: "first", or "spread" evenly.
        batch_norm: Batch norms that sub-nets share: "private", "stage" or "shared", see
            `DepthDynamicNetwork`.
    """

    network: str = "resnet56"
    subnets: dict[str, dict[str, Any]] | None = None
    kept_blocks: str = DEFAULT_KEPT
    batch_norm: str = DEFAULT_NORMS

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, kind in (("kept_blocks", KeptBlocks), ("batch_norm", BatchNorms)):
            if (value := getattr(self, name)) not in get_args(kind):
                raise ConfigError(choices_message("depth_dynamic", name, value, get_args(kind)))
        if self.subnets is not None and not 1 <= len(self.subnets) <= _MAX_SUBNETS:
            raise ConfigError(
                f"depth_dynamic: `subnets` must be 1 to {_MAX_SUBNETS} sub-nets, "
                f"got {len(self.subnets)}"
            )
        for name, options in (self.subnets or {}).items():
            self._check_subnet(name, options)

    def _check_subnet(self, name: object, options: object) -> None:
        if not isinstance(name, str) or not isinstance(options, Mapping):
            raise ConfigError(
                "depth_dynamic: `subnets` must hold a table of options for each name, got "
                f"{quoted(options)} for {quoted(name)}"
            )
        if name == self.network:
            raise ConfigError(
                f"depth_dynamic: `subnets` must have other names than the network {name}"
            )
        if name in list_models():
            if family_of(name) != family_of(self.network):
                raise ConfigError(
                    "depth_dynamic: `subnets` must be of the family of "
                    f"{self.network}, got {name} of {family_of(name)}"
                )
            if options:
                raise ConfigError(
                    "depth_dynamic: `subnets` must have no options for a registered network, got "
                    f"{quoted(dict(options))} for {name}"
                )
        elif not options or not set(options) <= set(_DEPTHS):
            raise ConfigError(
                "depth_dynamic: `subnets` must have the options blocks or depth for a name that "
                f"is no registered network, got {quoted(dict(options))} for {quoted(name)}"
            )


def depth_dynamic(options: Config) -> nn.Module:
    """Depth-dynamic network of any network of stages."""
    if options.subnets is None:
        raise ConfigError("depth_dynamic: `subnets` must be given, got None")
    network = options.build_staged()
    with torch.device("meta"):
        found = sorted(
            (_found(options, name) for name in options.subnets), key=lambda one: sum(one.counts)
        )
        found.append(_found(options, options.network))
    check_nesting({one.name: one.counts for one in found})
    full = _counts(network)
    subnets = []
    for one in found:
        kept = kept_blocks(one.counts, full, options.kept_blocks)
        subnet = Subnet(
            name=one.name, model=one.model, options=one.options, kept=tuple(map(tuple, kept))
        )
        check_layers(subnet, one.network, network)
        subnets.append(subnet)
    return DepthDynamicNetwork(network, subnets, options.batch_norm)


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A network inside, on the meta device."""

    name: str
    model: str
    options: Mapping[str, Any]
    network: StagedNetwork

    @property
    def counts(self) -> list[int]:
        return _counts(self.network)


def _found(options: Config, name: str) -> _Found:
    model = name if name in list_models() else options.network
    own = (options.subnets or {}).get(name, {})
    network = options.build_staged(model, **own)
    given = {**(options.network_options or {}), **own}
    return _Found(name=name, model=model, options=given, network=network)


def _counts(network: StagedNetwork) -> list[int]:
    return [len(stage) for stage in network.stage_blocks()]


for _name, _network, _subnets, _size in (
    ("depth_dynamic", "resnet56", {"resnet20": {}, "resnet32": {}}, 32),
    ("ddnn_resnet20_32_56", "resnet56", {"resnet20": {}, "resnet32": {}}, 32),
    ("ddnn_resnet18_34", "resnet34", {"resnet18": {}}, 224),
    ("ddnn_resnet50_101", "resnet101", {"resnet50": {}}, 224),
    ("ddnn_vgg_small", "vgg_small", {"vgg_small_111": {"blocks": [1, 1, 1]}}, 32),
):
    register_model(
        depth_dynamic,
        name=_name,
        image_size=_size,
        defaults={"network": _network, "subnets": _subnets},
    )
