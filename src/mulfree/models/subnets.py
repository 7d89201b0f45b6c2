"""Sub-nets of a network of stages: kept blocks, and the batch norms that sub-nets share."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from mulfree.errors import ConfigError, quoted
from mulfree.models.staged import StagedNetwork

KeptBlocks = Literal["first", "spread"]
BatchNorms = Literal["private", "stage", "shared"]

# Provisional, until the experiment of benchmarks/depth_dynamic.py has compared them.
DEFAULT_KEPT: KeptBlocks = "first"
DEFAULT_NORMS: BatchNorms = "private"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One block on the route of a sub-net; steps of one key after equal routes compute the same.

    Attributes:
        block: Name of the block.
        branch: Branch of its batch norms, if they have several.
        last: Whether the block computes what only the last block of a stage does.
        ends_stage: Whether the sub-net runs no later block of the stage.
    """

    block: str
    branch: str
    last: bool
    ends_stage: bool

    @property
    def key(self) -> tuple[str, str, bool]:
        """Block, branch, and whether it is the last one that differs."""
        return self.block, self.branch, self.last


@dataclass(frozen=True, kw_only=True)
class Subnet:
    """A network inside a depth-dynamic network.

    Attributes:
        name: Name of the depth.
        model: Registered name of the network.
        options: Its options but those that it has in common with the whole.
        kept: Numbers of the blocks of the full network that it runs, for each stage.
    """

    name: str
    model: str
    options: Mapping[str, Any]
    kept: tuple[tuple[int, ...], ...]

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of blocks of every stage."""
        return tuple(map(len, self.kept))


def kept_blocks(counts: Sequence[int], full: Sequence[int], choice: str) -> list[list[int]]:
    r"""Return the numbers of the blocks of the full network that a sub-net keeps, for each stage.

    Args:
        counts: Blocks of every stage of the sub-net.
        full: Blocks of every stage of the full network.
        choice: "first" for the first blocks, "spread" for evenly spaced ones from the first to the
            last, :math:`\lfloor i (N - 1) / (n - 1) + 1/2 \rfloor`.
    """
    if choice == "first":
        return [list(range(count)) for count in counts]
    return [
        [(2 * i * (most - 1) + count - 1) // (2 * (count - 1)) for i in range(count)]
        if count > 1
        else [0]
        for count, most in zip(counts, full, strict=True)
    ]


def check_nesting(counts: Mapping[str, Sequence[int]]) -> None:
    """Require that each network has, stage by stage, at most the blocks of the next.

    Args:
        counts: Blocks of every stage of the networks by name, from the shallowest to the deepest.

    Raises:
        ConfigError: They do not nest, or two are equal.
    """
    for (name, less), (deeper, more) in pairwise(counts.items()):
        pairs = list(zip(less, more, strict=False))
        if len(less) != len(more) or any(a > b for a, b in pairs):
            relation = "nest, with no more blocks in any stage than the next deeper network"
        elif list(less) == list(more):
            relation = "have different depths"
        else:
            continue
        raise ConfigError(
            f"depth_dynamic: `subnets` must {relation}, got {quoted(name)} of {list(less)} and "
            f"{quoted(deeper)} of {list(more)} blocks"
        )


def check_layers(subnet: Subnet, network: StagedNetwork, full: StagedNetwork) -> None:
    """Require that a sub-net has the layers of the full network in the blocks that it keeps.

    Args:
        subnet: The sub-net.
        network: Its network.
        full: The full network.

    Raises:
        ConfigError: Names or shapes of tensors differ.
    """
    stages = zip(network.stage_blocks(), full.stage_blocks(), subnet.kept, strict=True)
    renamed = {
        name: theirs[number]
        for ours, theirs, kept in stages
        for name, number in zip(ours, kept, strict=True)
    }
    shapes = {key: tensor.shape for key, tensor in full.state_dict().items()}
    own = {
        under_block(key, renamed)[0]: tensor.shape for key, tensor in network.state_dict().items()
    }
    different = next((key for key, shape in own.items() if shapes.get(key) != shape), None)
    outside = {key for key in shapes if under_block(key, _blocks(full))[1] is None}
    different = different or next(iter(sorted(outside - own.keys())), None)
    if different is not None:
        raise ConfigError(
            "depth_dynamic: `subnets` must have the layers of the full network, got "
            f"{quoted(subnet.name)} with another {different}"
        )


def _blocks(network: StagedNetwork) -> dict[str, str]:
    return {name: name for stage in network.stage_blocks() for name in stage}


def under_block(path: str, renamed: Mapping[str, str]) -> tuple[str, str | None]:
    """Rename the block at the start of the path of a module or tensor.

    Returns:
        The path, and the old name of the block; None for a path outside the blocks.
    """
    for end in (*(at for at, letter in enumerate(path) if letter == "."), len(path)):
        block = path[:end]
        if block in renamed:
            return renamed[block] + path[end:], block
    return path, None


def routes(
    stages: Sequence[Sequence[str]],
    subnets: Sequence[Subnet],
    batch_norm: str,
    *,
    last_differs: bool,
) -> dict[str, tuple[Step, ...]]:
    """Return the blocks that each sub-net runs, in order, with the branches of their batch norms.

    A branch has the name of the first sub-net that uses it.

    Args:
        stages: Names of the blocks of every stage of the full network.
        subnets: All networks.
        batch_norm: As in `DepthDynamicNetwork`.
        last_differs: Whether the last block of a stage computes something else.
    """
    first_user: dict[Hashable, str] = {}
    found = {}
    for subnet in subnets:
        steps: list[Step] = []
        parts = zip(stages, subnet.kept, subnets[0].kept, strict=True)
        for names, kept, least in parts:
            for number in kept:
                ends = number == kept[-1]
                key: tuple[Hashable, ...] = (names[number],)
                if batch_norm == "stage" and number in least:
                    key += (len(kept) == len(names),)
                elif batch_norm == "private":
                    key += (ends and last_differs, tuple(before.key for before in steps))
                step = Step(
                    block=names[number],
                    branch=first_user.setdefault(key, subnet.name),
                    last=ends and last_differs,
                    ends_stage=ends,
                )
                steps.append(step)
        found[subnet.name] = tuple(steps)
    return found
