"""Units of a network of stages: parts that another network's units can replace one by one."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from mulfree.models.staged import StagedNetwork

CLASSIFIER = "classifier"
"""Name of the last unit."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """Consecutive parts of a network of stages.

    Attributes:
        name: Name for messages.
        blocks: Names of its blocks.
        with_stem: Whether the stem precedes them, as in the first unit.
        with_classifier: Whether the classifier follows them, as in the last unit.
    """

    name: str
    blocks: tuple[str, ...] = ()
    with_stem: bool = False
    with_classifier: bool = False

    def run(self, network: StagedNetwork, x: Tensor) -> Tensor:
        """Output of the unit of `network` on images or the output of the previous unit."""
        if self.with_stem:
            x = network.run_stem(x)
        x = network.run_blocks(self.blocks, x)
        return network.classify(x) if self.with_classifier else x

    def layers(self, network: StagedNetwork) -> dict[str, nn.Module]:
        """Return the modules without children in the unit of `network`, by name."""
        blocks = [name for stage in network.stage_blocks() for name in stage]
        found: dict[str, nn.Module] = {}
        outside = self.with_stem
        for name, module in network.named_modules():
            owner = next((block for block in blocks if name.startswith(f"{block}.")), None)
            if owner is not None:
                # The stem is registered before the blocks, the classifier after them.
                outside = self.with_classifier
            if not any(module.children()) and (outside if owner is None else owner in self.blocks):
                found[name] = module
        return found


def stage_units(network: StagedNetwork) -> list[Unit]:
    """Return the stages, the first with the stem, and the classifier."""
    stages = enumerate(network.stage_blocks(), start=1)
    return _with_ends([(f"stage {number}", tuple(names)) for number, names in stages])


def block_units(network: StagedNetwork) -> list[Unit]:
    """Return the blocks, the first with the stem, and the classifier."""
    return _with_ends([(name, (name,)) for stage in network.stage_blocks() for name in stage])


def _with_ends(parts: list[tuple[str, tuple[str, ...]]]) -> list[Unit]:
    units = [
        Unit(name=name, blocks=blocks, with_stem=number == 0)
        for number, (name, blocks) in enumerate(parts)
    ]
    return [*units, Unit(name=CLASSIFIER, with_classifier=True)]


def is_equal(unit: Unit, network: StagedNetwork, other: StagedNetwork) -> bool:
    """Return whether a unit of two networks is the same but for the values of its tensors."""
    own, its = (
        [(name, repr(layer)) for name, layer in unit.layers(one).items()]
        for one in (network, other)
    )
    return type(network) is type(other) and own == its
