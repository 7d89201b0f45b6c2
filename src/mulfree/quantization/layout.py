"""Bit widths and shared scales of the values of a fused graph."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from mulfree.errors import ConfigError
from mulfree.quantization.fused_graph import FusedGraph, classifies
from mulfree.quantization.fused_ops import FusedLayer
from mulfree.quantization.qparams import BITS, DEFAULT_BITS

# Stands in checkpoints of quantisation-aware training.
_COPY = ".copy"


@dataclass(frozen=True, kw_only=True)
class QuantLayout:
    """Bit widths of the values of a fused graph, and the parameters that each layer reads.

    Inputs and weights of middle layers have `bits` bits. Inputs of the first layer and of the
    classifier, and values that are only added, have 8. A value with readers of both kinds has 8
    bits and a copy of `bits` bits.

    Args:
        fused: The network.
        bits: One of `BITS`.

    Attributes:
        roots: For every value the value whose scale it shares, possibly itself.
        bit_widths: Bits by the name of the quantisation parameters: of every value with its own
            scale, and of every copy.
        domains: For every value with its own scale the least and the greatest number that matter
            to its readers: SiLU is flat below -8. Infinite for layers and sums.
        units: By the same names, the number whose power-of-two multiples are valid scales if all
            factors have to be powers of two.

    Raises:
        ConfigError: `bits` is not one of `BITS`.
    """

    fused: FusedGraph
    bits: int
    # Computed eagerly: torch.compile cannot trace cached properties.
    roots: Mapping[str, str] = field(init=False, repr=False)
    bit_widths: Mapping[str, int] = field(init=False, repr=False)
    domains: Mapping[str, tuple[float, float]] = field(init=False, repr=False)
    units: Mapping[str, float] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if type(self.bits) is not int or self.bits not in BITS:
            raise ConfigError(
                f"quantize: `bits` must be one of {', '.join(map(str, BITS))}, got {self.bits!r}"
            )
        for name, find in (
            ("roots", self._find_roots),
            ("bit_widths", self._find_bit_widths),
            ("domains", self._find_domains),
            ("units", self._find_units),
        ):
            object.__setattr__(self, name, find())

    def original(self, name: str) -> str:
        """Name of the value that the quantisation parameters `name` belong to, copy or not."""
        return name if name in self.roots else name.removesuffix(_COPY)

    def operand(self, layer: FusedLayer) -> str:
        """Name of the quantisation parameters of the input of a layer."""
        root = self.roots[layer.input]
        return _copy(root) if self._middle(layer) and _copy(root) in self.bit_widths else root

    def clamped(self, name: str, x: Tensor) -> Tensor:
        """Numbers of a value or copy, clamped to the domain of its readers."""
        low, high = self.domains[self.original(name)]
        return x if math.isinf(low) and math.isinf(high) else x.clamp(low, high)

    def weight_bits(self, layer: FusedLayer) -> int:
        """Bits of the weights of a layer."""
        return self.bits if self._middle(layer) else DEFAULT_BITS

    def _find_roots(self) -> Mapping[str, str]:
        roots = {self.fused.input: self.fused.input}
        for op in self.fused.ops:
            roots[op.output] = op.output if op.rescales else roots[op.input]
        return roots

    def _find_bit_widths(self) -> Mapping[str, int]:
        # For every root the kinds of its readers: middle layer or not.
        reads: dict[str, set[bool]] = {root: set() for root in self.roots.values()}
        for op in self.fused.ops:
            for name in op.inputs:
                if op.rescales:
                    middle = isinstance(op, FusedLayer) and name == op.input and self._middle(op)
                    reads[self.roots[name]].add(middle)
        for op in filter(classifies, self.fused.ops):
            del reads[op.output]
        widths = {}
        for root, kinds in reads.items():
            widths[root] = self.bits if kinds == {True} else DEFAULT_BITS
            if True in kinds and widths[root] != self.bits:
                widths[_copy(root)] = self.bits
        return widths

    def _find_domains(self) -> Mapping[str, tuple[float, float]]:
        unbounded = -math.inf, math.inf
        read: dict[str, list[tuple[float, float]]] = {root: [] for root in self.roots.values()}
        # Pixels are never clipped, nor logits.
        for name in (self.fused.input, *self.fused.outputs.values()):
            read[self.roots[name]].append(unbounded)
        for op in self.fused.ops:
            if op.rescales:
                for name in op.inputs:
                    read[self.roots[name]].append(op.domain)
        return {
            root: (min(low for low, _ in domains), max(high for _, high in domains))
            for root, domains in read.items()
        }

    def _find_units(self) -> Mapping[str, float]:
        units = {self.fused.input: 1.0}
        for op in self.fused.ops:
            units[op.output] = op.unit(*(units[name] for name in op.inputs))
        return {name: units[self.original(name)] for name in self.bit_widths}

    def _middle(self, layer: FusedLayer) -> bool:
        return self.roots[layer.input] != self.fused.input and not layer.classifies


def _copy(root: str) -> str:
    return root + _COPY
