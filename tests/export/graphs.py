"""Random quantised graphs: one operation between pixels and logits, or a small network."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mulfree.nodes import Node, Value
from mulfree.nodes.add import Add
from mulfree.nodes.adder2d import Adder2d
from mulfree.nodes.concat import Concat
from mulfree.nodes.conv2d import Conv2d
from mulfree.nodes.linear import Linear
from mulfree.nodes.lut import Lut
from mulfree.nodes.max_pool import MaxPool
from mulfree.nodes.mean import Mean
from mulfree.nodes.pad import Pad
from mulfree.nodes.repeat import Repeat
from mulfree.runtime.graph import Graph, Input

Shape = tuple[int, int, int]
OPERATIONS = ("adder2d", "conv2d", "max_pool", "mean", "add", "lut", "pad", "repeat", "concat")


class Builder:
    """Adds nodes with random numbers in them, one behind the other."""

    def __init__(self, shape: Shape, rng: np.random.Generator, zero: int | None = None) -> None:
        self.rng = rng
        self.nodes: list[Node] = []
        self.values: list[Value] = []
        self.value(shape, zero)

    @property
    def last(self) -> Value:
        return self.values[-1]

    def value(self, shape: Shape, zero: int | None = None, like: Value | None = None) -> str:
        if zero is None:
            zero = int(self.rng.integers(256)) if like is None else like.zero_point
        scale = 0.02 if like is None else like.scale
        self.values.append(
            Value(name=f"v{len(self.values)}", shape=shape, scale=scale, zero_point=zero)
        )
        return self.last.name

    def add_node(
        self, kind: type[Node], shape: Shape, like: Value | None = None, **rest: Any
    ) -> None:
        source = rest.pop("input", self.last.name)
        output = self.value(shape, like=like)
        name = f"{kind.op}{len(self.nodes)}"
        self.nodes.append(kind(name=name, input=source, output=output, **rest))

    def epilogue(self, middle: float, spread: float, filters: int | None = None) -> dict[str, Any]:
        """Factors that spread sums of about `middle` plus or minus `spread` over 0..255."""
        shift = int(self.rng.integers(16, 40))
        size = () if filters is None else (filters,)
        sign = self.rng.choice([-1, 1], size)
        factor = sign * self.rng.uniform(0.5, 1.5, size) * 2.0**shift * 100 / spread
        factor = np.clip(factor, -(2**31), 2**31 - 1).astype(np.int64)
        centre = (self.rng.uniform(80, 176, size) * 2.0**shift).astype(np.int64)
        offset = centre - factor * int(middle)
        low, high = (int(bound) for bound in self.rng.integers(0, 20, 2))
        return {
            "multiplier": int(factor) if filters is None else factor.astype(np.int32),
            "offset": int(offset) if filters is None else offset,
            "shift": shift,
            "clamp_min": low,
            "clamp_max": 255 - high,
        }

    def layer(
        self,
        kind: type[Adder2d] | type[Conv2d],
        filters: int,
        kernel: tuple[int, int] = (3, 3),
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (1, 1),
        groups: int = 1,
        residual: str | None = None,
        weight: NDArray[Any] | None = None,
    ) -> None:
        channels, *sides = self.last.shape
        if weight is None:
            low, high, dtype = (0, 256, np.uint8) if kind is Adder2d else (-128, 128, np.int8)
            weight = self.rng.integers(low, high, (filters, *kernel, channels // groups), dtype)
        rows, columns = (
            (side + 2 * p - k) // s + 1
            for side, p, k, s in zip(sides, padding, kernel, stride, strict=True)
        )
        taps = weight[0].size
        # Of uniformly distributed bytes.
        sums = (-85 * taps, 90 * taps**0.5) if kind is Adder2d else (-64 * taps, 11_000 * taps**0.5)
        self.add_node(
            kind,
            (filters, rows, columns),
            weight=weight,
            stride=stride,
            padding=padding,
            groups=groups,
            residual=residual,
            residual_multiplier=0 if residual is None else int(self.rng.integers(-(2**20), 2**20)),
            **self.epilogue(*sums, filters),
        )

    def graph(self, outputs: int = 3) -> Graph:
        taps = self.last.elements
        weight = self.rng.integers(-128, 128, (outputs, taps), np.int8)
        scale = self.rng.uniform(1e-4, 1e-3, outputs).astype(np.float32)
        bias = self.rng.normal(size=outputs).astype(np.float32)
        end = Linear(name="end", input=self.last.name, weight=weight, scale=scale, bias=bias)
        channels, height, width = self.values[0].shape
        table = self.rng.integers(0, 256, (channels, 256), np.uint8)
        first = Input(
            value="v0",
            table=table,
            mean=(0.5,) * channels,
            std=(0.25,) * channels,
            resize=max(height, width),
        )
        classes = tuple(f"class {index}" for index in range(outputs))
        return Graph(
            name="random",
            input=first,
            values=tuple(self.values),
            nodes=(*self.nodes, end),
            classes=classes,
        )


def _pair(rng: np.random.Generator, low: int, high: int) -> tuple[int, int]:
    return int(rng.integers(low, high)), int(rng.integers(low, high))


def of_operation(operation: str, rng: np.random.Generator) -> Graph:
    """Pixels, the operation with a random geometry, logits."""
    groups = int(rng.choice([1, 1, 2, 3]))
    channels = groups * int(rng.integers(1, 5))
    height, width = _pair(rng, 5, 12)
    kernel, stride = _pair(rng, 1, 6), _pair(rng, 1, 4)
    padding = (int(rng.integers(0, kernel[0] // 2 + 1)), int(rng.integers(0, kernel[1] // 2 + 1)))
    build = Builder((channels, height, width), rng)
    rows, columns = (
        (side + 2 * p - k) // s + 1
        for side, p, k, s in zip((height, width), padding, kernel, stride, strict=True)
    )
    shape = build.last.shape
    if operation in ("adder2d", "conv2d"):
        kind = Adder2d if operation == "adder2d" else Conv2d
        if groups == 3:  # depthwise
            groups = channels
        filters = groups * int(rng.integers(1, 4))
        if rng.random() < 0.5:
            build.layer(kind, filters, kernel, stride, padding, groups)
        else:
            # The input itself is the residual.
            odd = (kernel[0] | 1, kernel[1] | 1)
            half = (odd[0] // 2, odd[1] // 2)
            build.layer(kind, channels, odd, (1, 1), half, groups, residual="v0")
    elif operation == "max_pool":
        minimum = rng.integers(0, 2, channels, np.uint8)
        build.add_node(
            MaxPool,
            (channels, rows, columns),
            like=build.last,
            kernel=kernel,
            stride=stride,
            padding=padding,
            minimum=minimum,
        )
    elif operation == "mean":
        if rng.random() < 0.3:
            kernel = (height, width)
        rows, columns = (
            (side - k) // s + 1 for side, k, s in zip((height, width), kernel, stride, strict=True)
        )
        taps = kernel[0] * kernel[1]
        factors = build.epilogue(127 * taps, 74 * taps**0.5)
        build.add_node(Mean, (channels, rows, columns), kernel=kernel, stride=stride, **factors)
    elif operation == "add":
        build.layer(Adder2d, channels)
        factors = build.epilogue(127, 74)
        build.add_node(
            Add, shape, other="v0", other_multiplier=int(rng.integers(-(2**20), 2**20)), **factors
        )
    elif operation == "lut":
        build.add_node(Lut, shape, table=rng.integers(0, 256, (channels, 256), np.uint8))
    elif operation == "pad":
        left, right, top, bottom = (int(size) for size in rng.integers(0, 4, 4))
        padded = (channels, height + top + bottom, width + left + right)
        sides = {"left": left, "right": right, "top": top, "bottom": bottom}
        build.add_node(Pad, padded, like=build.last, **sides)
    elif operation == "concat":
        # Twice, so that what is stacked has different numbers of channels.
        for count in (2 * channels, 3 * channels):
            stacked, order = (count, height, width), rng.permutation(count).astype(np.int32)
            build.add_node(Concat, stacked, like=build.last, others=("v0",), order=order)
    else:
        factor = int(rng.integers(1, 4))
        larger = (channels, height * factor, width * factor)
        build.add_node(Repeat, larger, like=build.last, factor=factor)
    return build.graph()


def network(rng: np.random.Generator, width: int = 8, side: int = 16) -> Graph:
    """A stem, a pooling, two residual blocks, one of them with a stride, and a mean."""
    build = Builder((3, side, side), rng)
    build.layer(Conv2d, width, stride=(2, 2))
    side //= 2
    build.add_node(
        MaxPool,
        (width, side, side),
        like=build.last,
        kernel=(3, 3),
        stride=(1, 1),
        padding=(1, 1),
        minimum=rng.integers(0, 2, width, np.uint8),
    )
    start = build.last.name
    build.layer(Adder2d, width)
    build.layer(Adder2d, width, residual=start)
    build.layer(Adder2d, 2 * width, stride=(2, 2))
    build.layer(Adder2d, 2 * width, (1, 1), padding=(0, 0), residual=build.last.name)
    kernel = build.last.shape[1:]
    taps = kernel[0] * kernel[1]
    factors = build.epilogue(127 * taps, 74 * taps**0.5)
    build.add_node(Mean, (2 * width, 1, 1), kernel=kernel, stride=(1, 1), **factors)
    return build.graph(10)
