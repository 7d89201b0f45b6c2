"""Random valid nodes, for tests of everything that takes a graph: `facet(op, "samples")`.

The sizes lie at, below and above the tiles of the native kernels; the numbers use all their bits.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mulfree.nodes import facet
from mulfree.nodes.node import Node, Shape, Value
from mulfree.nodes.sliding import Pair, SlidingLayer

_CHANNELS = (1, 2, 3, 4, 6, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65)
_FILTERS = (1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33)
_MAX_ELEMENTS = 2000


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A valid node with its values.

    Attributes:
        values: One or two values that the node may read, of one shape unless the kind has
            `operands`; it reads at least the last.
        node: The node.
        output: The value that it makes, or None for a node that ends.
    """

    values: tuple[Value, ...]
    node: Node
    output: Value | None


def samples(op: str, rng: np.random.Generator) -> Iterator[Sample]:
    """Return endless random instances of a kind of node, each of one or two values."""
    while True:
        draws = Draws(rng)
        values = draws.operands(op)
        node, output = draws.node(op, values)
        yield Sample(values=tuple(values), node=node, output=output)


def has_operands(op: str) -> bool:
    """Return True for a kind whose operands differ in shape: `operands(draws)` makes them."""
    return hasattr(facet(op, "samples"), "operands")


class Draws:
    """Random fields of nodes of one graph, whose names are unique.

    Args:
        rng: The generator.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self._numbers = itertools.count()

    def node(self, op: str, values: Sequence[Value]) -> tuple[Node, Value | None]:
        """Return a node that reads the last value and perhaps others, and its output."""
        module = facet(op, "samples")
        assert module is not None, f"{op} has no samples"
        node, output = module.sample(self, values)
        return node, output

    def operands(self, op: str) -> list[Value]:
        """Return values for a node: `operands` of its samples, or one or two of one shape."""
        module: Any = facet(op, "samples")
        if has_operands(op):
            return list(module.operands(self))
        first = self.value(self.shape())
        like = first if self.number(0, 1) else None
        return [first, self.value(first.shape, like)][: self.number(1, 2)]

    def number(self, low: int, high: int) -> int:
        """Return an int in low..high."""
        return int(self.rng.integers(low, high, endpoint=True))

    def pair(self, low: int, high: int) -> Pair:
        """Return two ints in low..high."""
        return self.number(low, high), self.number(low, high)

    def array(self, low: int, high: int, shape: Any, dtype: str) -> NDArray[Any]:
        """Return ints in low..high; all are an extreme at times."""
        array: NDArray[Any] = self.rng.integers(low, high, shape, endpoint=True).astype(dtype)
        if self.number(0, 9) == 0:
            array[...] = high if self.number(0, 1) else low
        return array

    def chosen(self, items: Sequence[Any]) -> Any:
        """Return one of the items."""
        return items[self.number(0, len(items) - 1)]

    def shape(self) -> Shape:
        """Return C, H, W of a small map."""
        channels = self.chosen(_CHANNELS)
        largest = min(12, int((_MAX_ELEMENTS / channels) ** 0.5))
        return channels, *self.pair(1, largest)

    def value(self, shape: Shape, like: Value | None = None) -> Value:
        """Return a new value, with scale and zero point of another if given."""
        return Value(
            name=f"v{next(self._numbers)}",
            shape=shape,
            scale=like.scale if like else float(self.rng.uniform(1e-3, 2)),
            zero_point=like.zero_point if like else self.number(0, 255) * self.number(0, 1),
        )

    def names(self, source: Value, output: Value) -> dict[str, Any]:
        """Return the fields that all nodes have."""
        return {"name": f"n{next(self._numbers)}", "input": source.name, "output": output.name}

    def window(
        self, sides: Sequence[int], largest: int, *, half: bool = False
    ) -> tuple[Pair, Pair, Pair]:
        """Return kernel, stride and padding (at most half of the kernel if `half`) that fit."""
        kernel, padding = [], []
        for side in sides:
            window = self.number(1, largest)
            border = self.number(0, min(3, window // 2 if half else window - 1))
            # A window that is too large becomes one that covers all.
            if window > side + 2 * border:
                window, border = side, 0
            kernel.append(window)
            padding.append(border)
        return (kernel[0], kernel[1]), self.pair(1, 3), (padding[0], padding[1])

    def excess(self, sides: Sequence[int], kernel: Pair, padding: Pair) -> Pair:
        """Return further padding below and right, so that the window still fits."""
        rows, columns = (
            self.number(max(-border, window - side - 2 * border), window - 1 - border)
            for side, window, border in zip(sides, kernel, padding, strict=True)
        )
        return rows, columns

    def filters(self, groups: int) -> int:
        """Return a number of filters that the groups divide."""
        return groups * (self.chosen(_FILTERS) if groups == 1 else self.number(1, 2))

    def epilogue(
        self, typical: float, spread: float, largest: int, filters: int | None = None
    ) -> dict[str, Any]:
        """Return factors that spread sums around `typical` over 0..255, or use all bits at times.

        Args:
            typical: Sum of random numbers.
            spread: Its standard deviation.
            largest: Its bound.
            filters: Number of factors, or None for scalars.
        """
        shift = self.number(1, 44)
        shape = () if filters is None else filters
        if self.number(0, 9) == 0:
            bound = min(2**31 - 1, 2**60 // largest)
            multiplier = self.rng.integers(-bound, bound, shape, endpoint=True)
            offset = self.rng.integers(-(2**60), 2**60, shape, endpoint=True)
        else:
            bound = min(2**31 - 1, 1 + int(2**shift * 128 / spread))
            multiplier = self.rng.integers(-bound, bound, shape, endpoint=True)
            if self.number(0, 3) == 0:
                powers = 2 ** self.rng.integers(0, bound.bit_length(), shape)
                multiplier = np.sign(multiplier) * powers
            centre = self.rng.integers(0, 255, shape) * 2**shift
            offset = centre - (multiplier * typical).astype("int64")
        low, high = sorted(self.pair(0, 255))
        return {
            "multiplier": int(multiplier) if filters is None else multiplier.astype("int32"),
            "offset": int(offset) if filters is None else offset.astype("int64"),
            "shift": shift,
            "clamp_min": low if self.number(0, 3) == 0 else 0,
            "clamp_max": high if self.number(0, 3) == 0 else 255,
        }


def sliding_layer(
    draws: Draws, values: Sequence[Value], kind: type[SlidingLayer], bounds: Pair, typical: Pair
) -> tuple[Node, Value]:
    """Return a layer with or without groups, padding and residual.

    Args:
        draws: Random numbers.
        values: Values that may be read.
        kind: Class of the layer.
        bounds: Least and greatest weight.
        typical: Mean and standard deviation of one tap's term.
    """
    source = values[-1]
    channels, *sides = source.shape
    divisors = [part for part in range(1, channels + 1) if channels % part == 0]
    groups = draws.chosen([1, 1, 1, draws.chosen(divisors), channels])
    kernel, stride, padding = draws.window(sides, 7 if draws.number(0, 3) == 0 else 3)
    excess = (0, 0) if draws.number(0, 2) else draws.excess(sides, kernel, padding)
    filters = draws.filters(groups)
    if draws.number(0, 3) == 0:  # the shape of the input, for a residual
        kernel, stride, padding, filters = draws.chosen(
            [((1, 1), (1, 1), (0, 0), channels), ((3, 3), (1, 1), (1, 1), channels)]
        )
        excess = (0, 0)
    rows, columns = (
        (side + 2 * p + more - k) // s + 1
        for side, k, s, p, more in zip(sides, kernel, stride, padding, excess, strict=True)
    )
    dtype = "uint8" if bounds[0] == 0 else "int8"
    weight = draws.array(*bounds, (filters, *kernel, channels // groups), dtype)
    output = draws.value((filters, rows, columns))
    taps = weight[0].size
    largest = taps * 255 * max(map(abs, bounds)) if dtype == "int8" else taps * 255
    factors = draws.epilogue(typical[0] * taps, typical[1] * taps**0.5, largest, filters)
    residuals = [value.name for value in values if value.shape == output.shape]
    factor = 2 ** draws.number(1, min(factors["shift"], 31))
    added = {}
    if residuals:
        added["residual"] = draws.chosen(residuals)
        added["residual_multiplier"] = draws.number(-factor, factor - 1)
    return kind(
        **draws.names(source, output),
        weight=weight,
        stride=stride,
        padding=padding,
        padding_excess=excess,
        groups=groups,
        **factors,
        **added,
    ), output
