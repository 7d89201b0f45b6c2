"""The integers of every value: which numbers they stand for, and how many bits they have."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from mulfree.errors import ConfigError
from mulfree.quantization.fused_graph import Plan
from mulfree.quantization.fused_ops import Layer, Mean

BITS = (8, 6, 5, 4)
FULL = 8
_NARROWEST = 1e-3
_COPY = ".copy"


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Integers 0..2^bits - 1 that stand for `scale * (q - zero)`."""

    scale: float
    zero: int
    bits: int

    @property
    def top(self) -> int:
        """The largest integer."""
        return (1 << self.bits) - 1

    @property
    def low(self) -> float:
        """The least number."""
        return -self.scale * self.zero

    @property
    def high(self) -> float:
        """The greatest number."""
        return self.scale * (self.top - self.zero)

    @classmethod
    def over(cls, low: float, high: float, bits: int, *, power_of_two: float | None = None) -> Grid:
        """The grid of the numbers from `low` to `high`, of which 0 is always one.

        Args:
            low: Least number.
            high: Greatest number.
            bits: Of the integers.
            power_of_two: Widen the grid until its scale is a power of two times this.
        """
        low, high = min(low, 0.0), max(high, 0.0)
        width = max(high - low, _NARROWEST)
        scale = width / (2**bits - 1)
        if power_of_two is not None:
            scale = power_of_two * 2.0 ** math.ceil(math.log2(scale / power_of_two) - 1e-9)
        return cls(scale=scale, zero=round(-low / scale), bits=bits)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How many bits the values of a plan have, and which layer reads which integers.

    What layers in the middle of the network read has `bits` bits, as their weights have. What the
    first layer and the classifier read, and what is only added, has 8. Where a value is read by
    both kinds it has 8 bits, and there is a copy of `bits` bits.

    Args:
        plan: The network.
        bits: One of `BITS`.

    Attributes:
        roots: For every value the one whose scale it has: itself, or what it was copied from.
        grids: Bits of every grid: of values with a scale of their own, and of copies.
        units: For every grid what its scale is a power of two times of, where all factors are to
            be powers of two.

    Raises:
        ConfigError: `bits` is another number.
    """

    plan: Plan
    bits: int
    # Not worked out when they are asked for, which torch.compile does not follow.
    roots: Mapping[str, str] = field(init=False, repr=False)
    grids: Mapping[str, int] = field(init=False, repr=False)
    units: Mapping[str, float] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if type(self.bits) is not int or self.bits not in BITS:
            raise ConfigError(
                f"quantize: `bits` must be one of {', '.join(map(str, BITS))}, got {self.bits!r}"
            )
        for name, find in (
            ("roots", self._find_roots),
            ("grids", self._find_grids),
            ("units", self._find_units),
        ):
            object.__setattr__(self, name, find())

    def original(self, grid: str) -> str:
        """Name of the value that a grid is of, copy or not."""
        return grid if grid in self.roots else grid.removesuffix(_COPY)

    def operand(self, layer: Layer) -> str:
        """Name of the grid of what a layer reads."""
        root = self.roots[layer.input]
        return _copy(root) if self._middle(layer) and _copy(root) in self.grids else root

    def weight_bits(self, layer: Layer) -> int:
        """Bits of the weights of a layer."""
        return self.bits if self._middle(layer) else FULL

    def _find_roots(self) -> Mapping[str, str]:
        roots = {self.plan.input: self.plan.input}
        for step in self.plan.steps:
            roots[step.output] = step.output if step.rescales else roots[step.input]
        return roots

    def _find_grids(self) -> Mapping[str, int]:
        # Whether those that read a value are layers in the middle of the network.
        reads: dict[str, set[bool]] = {root: set() for root in self.roots.values()}
        for step in self.plan.steps:
            for name in step.inputs:
                if step.rescales:
                    middle = isinstance(step, Layer) and name == step.input and self._middle(step)
                    reads[self.roots[name]].add(middle)
        if self.plan.classifier is not None:
            del reads[self.plan.classifier.output]
        grids = {}
        for root, kinds in reads.items():
            grids[root] = self.bits if kinds == {True} else FULL
            if True in kinds and grids[root] != self.bits:
                grids[_copy(root)] = self.bits
        return grids

    def _find_units(self) -> Mapping[str, float]:
        units = {self.plan.input: 1.0}
        for step in self.plan.steps:
            units[step.output] = 1.0 if step.rescales else units[step.input]
            if isinstance(step, Mean):
                # The mean of n numbers is their sum times 1 / n, which is then in the scale.
                units[step.output] = units[step.input] / math.prod(step.kernel)
        return {grid: units[self.original(grid)] for grid in self.grids}

    def _middle(self, layer: Layer) -> bool:
        return self.roots[layer.input] != self.plan.input and layer is not self.plan.classifier


def _copy(root: str) -> str:
    return root + _COPY
