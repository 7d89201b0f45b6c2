"""Graphs for tests: one made by hand, and as many random ones as wanted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
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


def array(values: Any, dtype: str) -> NDArray[Any]:
    return np.ascontiguousarray(values, dtype=dtype)


def tiny_parts() -> dict[str, Any]:
    """Arguments of `Graph` for two adder filters 2x2 on 3x3 pixels, their mean, two classes."""
    return {
        "name": "tiny",
        "input": Input(
            value="x",
            table=array(np.arange(256)[None], "uint8"),
            mean=(0.5,),
            std=(0.25,),
            resize=3,
        ),
        "values": (
            Value(name="x", shape=(1, 3, 3), scale=0.5, zero_point=2),
            Value(name="y", shape=(2, 2, 2), scale=0.25, zero_point=0),
            Value(name="z", shape=(2, 1, 1), scale=0.25, zero_point=0),
        ),
        "nodes": (
            Adder2d(
                name="adder",
                input="x",
                output="y",
                weight=array([[[[1], [1]], [[1], [1]]], [[[0], [2]], [[4], [6]]]], "uint8"),
                multiplier=array([1, -3], "int32"),
                offset=array([100, 0], "int64"),
                shift=1,
                clamp_min=0,
                clamp_max=255,
            ),
            Mean(
                name="mean",
                input="y",
                output="z",
                kernel=(2, 2),
                stride=(1, 1),
                multiplier=1,
                offset=0,
                shift=2,
                clamp_min=0,
                clamp_max=255,
            ),
            Linear(
                name="fc",
                input="z",
                weight=array([[1, 2], [-1, 0]], "int8"),
                scale=array([0.5, 2.0], "float32"),
                bias=array([1.0, -1.0], "float32"),
            ),
        ),
        "classes": ("cat", "dog"),
    }


def tiny() -> Graph:
    return Graph(**tiny_parts())


def lined_up(value: Value, *nodes: Node, values: tuple[Value, ...] = ()) -> Graph:
    """Nodes one after the other, from `value` on, and logits that are the integers of the last."""
    last = values[-1] if values else value
    taps = last.elements
    channels, *sides = value.shape
    classifier = Linear(
        name="fc",
        input=last.name,
        weight=np.eye(taps, dtype=np.int8),
        scale=np.ones(taps, np.float32),
        bias=np.zeros(taps, np.float32),
    )
    return Graph(
        name="lined up",
        input=Input(
            value=value.name,
            table=array(np.arange(256)[None].repeat(channels, 0), "uint8"),
            mean=(0.5,) * channels,
            std=(0.5,) * channels,
            resize=max(sides),
        ),
        values=(value, *values),
        nodes=(*nodes, classifier),
    )


def heavy(side: int, channels: int) -> Graph:
    """An adder layer of `9 * side**2 * channels**2` taps and the mean of what it makes."""
    rng = np.random.default_rng(side)
    shape = (channels, side, side)
    x = Value(name="x", shape=shape, scale=0.5, zero_point=7)
    y = replace(x, name="y")
    z = replace(x, name="z", shape=(channels, 1, 1))
    taps = 9 * channels
    adder = Adder2d(
        name="adder",
        input="x",
        output="y",
        weight=rng.integers(0, 256, (channels, 3, 3, channels), dtype=np.uint8),
        multiplier=array([2**16 // taps] * channels, "int32"),
        offset=array([130 * 2**16] * channels, "int64"),
        shift=16,
        clamp_min=0,
        clamp_max=255,
        padding=(1, 1),
    )
    mean = Mean(
        name="mean",
        input="y",
        output="z",
        kernel=(side, side),
        stride=(1, 1),
        multiplier=2**20 // side**2,
        offset=0,
        shift=20,
        clamp_min=0,
        clamp_max=255,
    )
    return lined_up(x, adder, mean, values=(y, z))


class _Growing:
    """A graph that is added to, node by node, at random."""

    def __init__(self, rng: np.random.Generator, shape: Shape) -> None:
        self.rng = rng
        self.values: list[Value] = []
        self.nodes: list[Node] = []
        self.value(shape)

    def number(self, low: int, high: int) -> int:
        """Uniform in low..high."""
        return int(self.rng.integers(low, high, endpoint=True))

    def pair(self, low: int, high: int) -> tuple[int, int]:
        return self.number(low, high), self.number(low, high)

    def array(self, low: int, high: int, shape: Any, dtype: str) -> NDArray[Any]:
        made: NDArray[Any] = self.rng.integers(low, high, shape, endpoint=True).astype(dtype)
        return made

    @property
    def last(self) -> Value:
        return self.values[-1]

    def value(self, shape: Shape, like: Value | None = None) -> Value:
        made = Value(
            name=f"v{len(self.values)}",
            shape=shape,
            scale=like.scale if like else float(self.rng.uniform(1e-3, 2)),
            zero_point=like.zero_point if like else self.number(0, 255) * self.number(0, 1),
        )
        self.values.append(made)
        return made

    def window(
        self, largest: int, *, half: bool = False
    ) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        """Kernel, stride and padding (of half the kernel at most) that fit the last value."""
        kernel, padding = [], []
        for side in self.last.shape[1:]:
            window = self.number(1, largest)
            border = self.number(0, min(3, window // 2 if half else window - 1))
            # A window that is too large becomes one that covers all.
            if window > side + 2 * border:
                window, border = side, 0
            kernel.append(window)
            padding.append(border)
        return (kernel[0], kernel[1]), self.pair(1, 3), (padding[0], padding[1])

    def epilogue(
        self, typical: float, spread: float, largest: int, count: int | None
    ) -> dict[str, Any]:
        """Factors that spread sums around `typical` over 0..255, or at times use all bits."""
        shift = self.number(1, 44)
        shape = () if count is None else count
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
            "multiplier": multiplier.astype("int32") if count else int(multiplier),
            "offset": offset.astype("int64") if count else int(offset),
            "shift": shift,
            "clamp_min": low if self.number(0, 3) == 0 else 0,
            "clamp_max": high if self.number(0, 3) == 0 else 255,
        }

    def names(self, kind: str) -> dict[str, Any]:
        return {"name": f"{kind}{len(self.nodes)}", "input": self.last.name}

    def layer(self, kind: type[Adder2d] | type[Conv2d]) -> None:
        source = self.last
        channels = source.shape[0]
        divisors = [part for part in range(1, channels + 1) if channels % part == 0]
        groups = int(self.rng.choice(divisors)) if self.number(0, 2) == 0 else 1
        filters = groups * self.number(1, 20 if groups == 1 else 2)
        kernel, stride, padding = self.window(7 if self.number(0, 3) == 0 else 3)
        shape = (filters, *kernel, channels // groups)
        low, high = (0, 255) if kind is Adder2d else (-128, 127)
        weight = self.array(low, high, shape, "uint8" if kind is Adder2d else "int8")
        if self.number(0, 9) == 0:
            weight[:] = high if self.number(0, 1) else low
        rows, columns = (
            (side + 2 * p - k) // s + 1
            for side, k, s, p in zip(source.shape[1:], kernel, stride, padding, strict=True)
        )
        made_shape = (filters, rows, columns)
        residuals = [value for value in self.values if value.shape == made_shape]
        residual = residuals[self.number(0, len(residuals) - 1)].name if residuals else None
        taps = weight[0].size
        typical, spread = (-85 * taps, 60) if kind is Adder2d else (0, 10_000)
        factors = self.epilogue(typical, spread * taps**0.5, taps * kind.largest_product, filters)
        factor = 2 ** self.number(1, 31 if factors["shift"] > 30 else factors["shift"])
        names = self.names(kind.op)
        self.nodes.append(
            kind(
                **names,
                output=self.value(made_shape).name,
                weight=weight,
                stride=stride,
                padding=padding,
                groups=groups,
                residual=residual,
                residual_multiplier=0 if residual is None else self.number(-factor, factor - 1),
                **factors,
            )
        )

    def max_pool(self) -> None:
        source = self.last
        kernel, stride, padding = self.window(4, half=True)
        minimum = self.array(0, 1, source.shape[0], "uint8")
        rows, columns = (
            (side + 2 * p - k) // s + 1
            for side, k, s, p in zip(source.shape[1:], kernel, stride, padding, strict=True)
        )
        names = self.names("pool")
        self.nodes.append(
            MaxPool(
                **names,
                output=self.value((source.shape[0], rows, columns), source).name,
                kernel=kernel,
                stride=stride,
                padding=padding,
                minimum=minimum,
            )
        )

    def mean(self) -> None:
        channels, *sides = self.last.shape
        kernel = [self.number(1, side) for side in sides]
        stride = self.pair(1, 3)
        rows, columns = ((a - k) // s + 1 for a, k, s in zip(sides, kernel, stride, strict=True))
        taps = kernel[0] * kernel[1]
        names = self.names("mean")
        self.nodes.append(
            Mean(
                **names,
                output=self.value((channels, rows, columns)).name,
                kernel=(kernel[0], kernel[1]),
                stride=stride,
                **self.epilogue(127 * taps, 74 * taps**0.5, 255 * taps, None),
            )
        )

    def add(self) -> None:
        shape = self.last.shape
        others = [value.name for value in self.values if value.shape == shape]
        names = self.names("add")
        factors = self.epilogue(127, 100, 255, None)
        self.nodes.append(
            Add(
                **names,
                other=str(self.rng.choice(others)),
                output=self.value(shape).name,
                other_multiplier=self.number(-abs(factors["multiplier"]), 3),
                **factors,
            )
        )

    def lut(self) -> None:
        table = self.array(0, 255, (self.last.shape[0], 256), "uint8")
        shape, names = self.last.shape, self.names("lut")
        self.nodes.append(Lut(**names, output=self.value(shape).name, table=table))

    def pad(self) -> None:
        source, names = self.last, self.names("pad")
        channels, rows, columns = source.shape
        left, right, top, bottom = (self.number(0, 3) for _ in range(4))
        made = self.value((channels, rows + top + bottom, columns + left + right), source)
        borders: dict[str, Any] = {"left": left, "right": right, "top": top, "bottom": bottom}
        self.nodes.append(Pad(**names, output=made.name, **borders))

    def repeat(self) -> None:
        source, names = self.last, self.names("repeat")
        channels, rows, columns = source.shape
        factor = self.number(1, 3)
        made = self.value((channels, rows * factor, columns * factor), source)
        self.nodes.append(Repeat(**names, output=made.name, factor=factor))

    def concat(self) -> None:
        """Of any values that fit, at times one value more than once."""
        source, names = self.last, self.names("concat")
        fitting = [
            value
            for value in self.values
            if (value.shape[1:], value.scale, value.zero_point)
            == (source.shape[1:], source.scale, source.zero_point)
        ]
        others = [fitting[self.number(0, len(fitting) - 1)] for _ in range(self.number(0, 3))]
        channels = source.shape[0] + sum(other.shape[0] for other in others)
        self.nodes.append(
            Concat(
                **names,
                others=tuple(other.name for other in others),
                output=self.value((channels, *source.shape[1:]), source).name,
                order=self.rng.permutation(channels).astype("int32"),
            )
        )

    def linear(self) -> None:
        taps, outputs = self.last.elements, self.number(1, 12)
        self.nodes.append(
            Linear(
                **self.names("fc"),
                weight=self.array(-128, 127, (outputs, taps), "int8"),
                scale=self.rng.normal(size=outputs).astype("float32"),
                bias=self.rng.normal(size=outputs).astype("float32"),
            )
        )


def random_graph(rng: np.random.Generator, nodes: int | None = None) -> Graph:
    """A valid graph of 1 to 5 random nodes and a classifier."""
    channels = int(rng.choice([1, 2, 3, 4, 6, 7, 8, 9, 16, 17]))
    rows, columns = rng.integers(1, 12, 2).tolist()
    growing = _Growing(rng, (channels, rows, columns))
    steps: list[Callable[[], None]] = [
        lambda: growing.layer(Adder2d),
        lambda: growing.layer(Adder2d),
        lambda: growing.layer(Adder2d),
        lambda: growing.layer(Conv2d),
        lambda: growing.layer(Conv2d),
        growing.max_pool,
        growing.mean,
        growing.add,
        growing.lut,
        growing.concat,
        growing.pad,
        growing.repeat,
    ]
    for _ in range(growing.number(1, 5) if nodes is None else nodes):
        # What enlarges is left out once the map is large.
        large = growing.last.elements > 3000
        steps[growing.number(0, len(steps) - (4 if large else 1))]()
    growing.linear()
    return Graph(
        name="random",
        input=Input(
            value="v0",
            table=growing.array(0, 255, (channels, 256), "uint8"),
            mean=tuple(rng.uniform(0, 1, channels).tolist()),
            std=tuple(rng.uniform(0.1, 1, channels).tolist()),
            resize=max(rows, columns),
        ),
        values=tuple(growing.values),
        nodes=tuple(growing.nodes),
    )


def pictures(rng: np.random.Generator, graph: Graph, images: int) -> NDArray[Any]:
    """Pixels, at times all 0 or all 255, or normalised numbers, at times far out."""
    shape = (images, *graph.input_value.shape)
    kind = rng.integers(0, 8)
    if kind < 2:
        return np.full(shape, 255 * kind, np.uint8)
    if kind < 5:
        return rng.integers(0, 256, shape, dtype=np.uint8)
    spread = 128 * graph.input_value.scale
    return (spread * rng.normal(size=shape)).astype(np.float32)
