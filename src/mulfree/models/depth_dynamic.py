"""Depth-dynamic networks: one set of weights that runs as networks of several depths.

A sub-net runs some blocks of every stage of the full network. The blocks that it leaves out keep
the shape of their input, so the remaining ones fit.

References:
    arXiv 2103.00793 (DDNN). Batch norms of shortened stages: arXiv 2312.16392 (ADN).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mulfree.errors import ConfigError, choices_message
from mulfree.models.claims import build
from mulfree.models.parts import check_images
from mulfree.models.registry import COMMON_OPTIONS, ModelConfig, config_of, create_model
from mulfree.models.selection import FIRST_AND_LAST
from mulfree.models.staged import StagedNetwork
from mulfree.models.subnets import (
    DEFAULT_KEPT,
    DEFAULT_NORMS,
    BatchNorms,
    KeptBlocks,
    Step,
    Subnet,
    routes,
    under_block,
)
from mulfree.models.switchable_norm import SwitchableBatchNorm2d, make_switchable
from mulfree.models.wrappers import unwrapped
from mulfree.operators import operator_of


@dataclass(frozen=True, kw_only=True)
class DepthOutput:
    """Output of one sub-net.

    Attributes:
        logits: `[N, classes]`.
        features: Output of every stage, `[N, C, H, W]`.
    """

    logits: Tensor
    features: tuple[Tensor, ...]


class DepthDynamicNetwork(nn.Module):
    """A network of stages that also runs as each of its sub-nets.

    All sub-nets share the weights of the layers. Which of them share a batch norm, its statistics
    included, is an option: "shared" for all; "stage" for all but those that leave out blocks of
    its stage, which have a second one in the blocks of the shallowest sub-net, as in ADN; "private"
    for those with the same blocks before, whose inputs are equal. The stem is shared by all. The
    batch norms after the stages, of head or logits, are private with "private", else shared.

    Args:
        network: The full network.
        subnets: All networks inside from the shallowest to the full one, see `check_nesting`.
        batch_norm: The option.

    Attributes:
        depth: Name of the sub-net that a call runs, at first the full network.
        calls_submodules: Whether a call runs modules of the network inside, not that network.
    """

    calls_submodules = True

    def __init__(self, network: StagedNetwork, subnets: Sequence[Subnet], batch_norm: str) -> None:
        super().__init__()
        self.network = network
        self._subnets = {subnet.name: subnet for subnet in subnets}
        self._routes = routes(
            network.stage_blocks(), subnets, batch_norm, last_differs=network.last_differs
        )
        self._after = network.after_stages()
        self._private_end = batch_norm == "private"
        self.depth = subnets[-1].name
        make_switchable(network, self._branches)

    @property
    def depths(self) -> tuple[str, ...]:
        """Names of the sub-nets from the shallowest to the full network."""
        return tuple(self._subnets)

    @property
    def runs_partly(self) -> bool:
        """True if a call leaves out some of the parameters: batch norms of the other sub-nets."""
        return any(isinstance(module, SwitchableBatchNorm2d) for module in self.modules())

    def route(self, depth: str) -> tuple[Step, ...]:
        """Return the blocks of a sub-net in order.

        Raises:
            ConfigError: There is no such sub-net.
        """
        return self._routes[self._known("route", depth)]

    def branches(self, depth: str) -> set[tuple[str, str]]:
        """Return the branches of batch norms that a sub-net uses, with the names of their blocks.

        Raises:
            ConfigError: There is no such sub-net.
        """
        used = {(step.block, step.branch) for step in self.route(depth)}
        return used | ({(name, depth) for name in self._after} if self._private_end else set())

    def set_depth(self, depth: str) -> None:
        """Make a sub-net the one that a call without `depth` runs.

        Raises:
            ConfigError: There is no such sub-net.
        """
        self.depth = self._known("set_depth", depth)

    def forward(self, images: Tensor, depth: str | None = None) -> Tensor:
        """Images `[N, C_in, H, W]` to the logits `[N, classes]` of a sub-net.

        Args:
            images: The images.
            depth: Name of the sub-net; None for the attribute `depth`.

        Raises:
            ConfigError: There is no such sub-net.
            ShapeError: `images` has another rank or number of channels, or is too small.
        """
        name = self.depth if depth is None else depth
        return self.run_depths(images, [name])[name].logits

    def all_logits(self, images: Tensor) -> dict[str, Tensor]:
        """Logits `[N, classes]` of all sub-nets by name, see `run_depths`."""
        return {name: output.logits for name, output in self.run_depths(images).items()}

    def run_depths(
        self, images: Tensor, depths: Sequence[str] | None = None
    ) -> dict[str, DepthOutput]:
        """Outputs of several sub-nets by name; blocks that compute the same run once.

        These are the stem, and the blocks up to the first in which two sub-nets differ.

        Args:
            images: Images `[N, C_in, H, W]`.
            depths: Names of the sub-nets; None for all.

        Raises:
            ConfigError: There is no such sub-net.
            ShapeError: `images` has another rank or number of channels, or is too small.
        """
        network = self.network
        check_images(
            type(network).__name__, images, network.in_channels, type(network).minimum_side
        )
        names = [self._known("run_depths", n) for n in (self.depths if depths is None else depths)]
        found = self._run(network.run_stem(images), names, 0, dict.fromkeys(names, ()))
        network.keep_blocks(None)
        return {name: found[name] for name in names}

    def _run(
        self, x: Tensor, names: Sequence[str], start: int, features: dict[str, tuple[Tensor, ...]]
    ) -> dict[str, DepthOutput]:
        """Outputs of sub-nets with the same first `start` blocks, whose output is `x`."""
        self.network.keep_blocks(self._subnets[names[0]].kept)
        for position in range(start, 1 + max(len(self._routes[name]) for name in names)):
            # Plain keys: for torch.compile equal objects are different keys.
            following: dict[tuple[str, str, bool] | None, list[str]] = {}
            for name in names:
                following.setdefault(self._step(name, position), []).append(name)
            if len(following) > 1:
                parts = [self._run(x, some, position, features) for some in following.values()]
                return {name: output for part in parts for name, output in part.items()}
            (step,) = following
            if step is None:
                break
            block, branch, _ = step
            self._activate([block], branch)
            x = self.network.run_blocks([block], x)
            for name in names:
                if self._routes[name][position].ends_stage:
                    features[name] = (*features[name], x)
        # Depths differ, so one sub-net is left.
        (name,) = names
        self._activate(self._after, name)
        return {name: DepthOutput(logits=self.network.classify(x), features=features[name])}

    def _step(self, name: str, position: int) -> tuple[str, str, bool] | None:
        """Key of the step of a sub-net at a position of its route, None at the end."""
        route = self._routes[name]
        return route[position].key if position < len(route) else None

    def _activate(self, paths: Iterable[str], branch: str) -> None:
        for path in paths:
            for module in self.network.get_submodule(path).modules():
                if isinstance(module, SwitchableBatchNorm2d) and branch in module.branches:
                    module.active = branch

    def extract(self, depth: str) -> nn.Module:
        """Return a copy of a sub-net as an ordinary model of its name, with the same logits.

        Raises:
            ConfigError: There is no such sub-net, or `create_model` did not build the network.
        """
        subnet = self._subnets[self._known("extract", depth)]
        own = config_of(self)
        arguments = {
            **subnet.options,
            **{key: own.arguments[key] for key in ("operator", "gradient", *COMMON_OPTIONS)},
        }
        if tuple(own.arguments["keep"]) != FIRST_AND_LAST:
            arguments["keep"] = self._kept_layers(subnet, arguments)
        model = build(ModelConfig(name=subnet.model, arguments=arguments, images=own.images))
        modules = self._counterparts(subnet, model)
        tensors = {}
        for key in model.state_dict():
            path, _, name = key.rpartition(".")
            tensors[key] = modules[path].state_dict()[name]
        like = next(self.parameters())
        model.to(like.device, like.dtype).load_state_dict(tensors)
        return model.train(self.training)

    def _kept_layers(self, subnet: Subnet, arguments: Mapping[str, Any]) -> list[str]:
        """Names in a sub-net of the layers of another operator than this network's."""
        with torch.device("meta"):
            model = create_model(subnet.model, **{**arguments, "operator": "conv2d"})
        names = [name for name, module in model.named_modules() if operator_of(module)]
        modules = self._counterparts(subnet, model)
        operators = {name: operator_of(modules[name]) for name in names}
        own = arguments["operator"]
        return [name for name, operator in operators.items() if operator and operator.name != own]

    def _counterparts(self, subnet: Subnet, model: nn.Module) -> dict[str, nn.Module]:
        """Modules of this network by the names that they have in a sub-net."""
        assert isinstance(model, StagedNetwork)
        blocks = [name for stage in model.stage_blocks() for name in stage]
        steps = dict(zip(blocks, self._routes[subnet.name], strict=True))
        renamed = {name: step.block for name, step in steps.items()}
        found = {}
        for path, _ in model.named_modules():
            own, block = under_block(path, renamed)
            module = self.network.get_submodule(own)
            if isinstance(module, SwitchableBatchNorm2d):
                module = module.branches[subnet.name if block is None else steps[block].branch]
            found[path] = module
        return found

    def _branches(self, path: str) -> list[str]:
        """Branches of the batch norm at `path` of the full network."""
        if any(path == name or path.startswith(f"{name}.") for name in self._after):
            return list(self.depths) if self._private_end else []
        steps = (step for route in self._routes.values() for step in route)
        used = (step.branch for step in steps if path.startswith(f"{step.block}."))
        return list(dict.fromkeys(used))

    def _known(self, function: str, depth: str) -> str:
        if depth not in self._subnets:
            raise ConfigError(choices_message(function, "depth", depth, self.depths))
        return depth


def shallower(model: nn.Module) -> dict[str, nn.Module]:
    """Return the sub-nets of a model by name, extracted, without the full network.

    Models of one depth have none.
    """
    network = unwrapped(model)
    if not isinstance(network, DepthDynamicNetwork):
        return {}
    return {depth: network.extract(depth) for depth in network.depths[:-1]}


def depth_dynamic(
    name: str,
    subnets: Mapping[str, Mapping[str, Any]] | Sequence[str],
    *,
    kept_blocks: KeptBlocks = DEFAULT_KEPT,
    batch_norm: BatchNorms = DEFAULT_NORMS,
    network_options: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> DepthDynamicNetwork:
    """Create a depth-dynamic network of any family of stages, randomly initialised.

    Args:
        name: Registered name of the full network, such as "resnet56".
        subnets: Names of the sub-nets, each a registered network of the same kind, such as
            "resnet20"; or by any other name the number of blocks or the depth of the sub-net, such
            as `{"short": {"blocks": [2, 2, 2]}}`.
        kept_blocks: Blocks of each stage that a sub-net keeps, see `subnets.kept_blocks`.
        batch_norm: Batch norms that sub-nets share, see `DepthDynamicNetwork`.
        network_options: Options of the full network, which sub-nets have too.
        **arguments: Arguments of `create_model`: operator, classes, channels, width and others.

    Raises:
        ConfigError: A sub-net is not known, has other layers, or does not nest; or as
            `create_model`.
    """
    named = subnets if isinstance(subnets, Mapping) else {subnet: {} for subnet in subnets}
    model = create_model(
        "depth_dynamic",
        network=name,
        subnets={key: dict(value) for key, value in named.items()},
        network_options=dict(network_options or {}),
        kept_blocks=kept_blocks,
        batch_norm=batch_norm,
        **arguments,
    )
    assert isinstance(model, DepthDynamicNetwork)
    return model
