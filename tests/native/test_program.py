"""Programs of integer networks against numpy, bit for bit, on every instruction set."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from tests.native import integer_reference as reference
from tests.native.integer_reference import Array, Pair, Rule, Sample, Window

from mulfree._native import core

ISAS = core().int8_isas()


class Network:
    """A program built beside its numpy reference: each node goes to both."""

    def __init__(self, sample: Sample, isa: str, channels: int, height: int, width: int) -> None:
        self.sample = sample
        self.program = core().Program(isa)
        self.steps: list[Callable[[dict[int, Array]], None]] = []
        self.shapes: dict[int, tuple[int, int, int]] = {}
        self.zeros: dict[int, int] = {}
        self.input = self.value((height, width, channels), int(sample.rng.integers(0, 256)))
        self.table = sample.u8(channels, 256)
        self.program.input_pixels(self.input, self.table)

    def value(self, shape: tuple[int, int, int], zero: int) -> int:
        """A new value `[H, W, C]`."""
        height, width, channels = shape
        number: int = self.program.value(channels, height, width, zero)
        self.shapes[number], self.zeros[number] = shape, zero
        return number

    def any(self, shape: tuple[int, int, int] | None = None) -> int:
        """A value, of `shape` if given."""
        fitting = [v for v, s in self.shapes.items() if shape is None or s == shape]
        return int(self.sample.rng.choice(fitting))

    def node(self, x: int, function: Callable[[dict[int, Array]], Array], same_zero: bool) -> int:
        """A new value that `function` computes; the reference gives its shape."""
        shape = function({v: np.zeros(s, np.uint8) for v, s in self.shapes.items()}).shape
        zero = self.zeros[x] if same_zero else int(self.sample.rng.integers(0, 256))
        y = self.value((shape[0], shape[1], shape[2]), zero)
        self.steps.append(lambda values: values.__setitem__(y, function(values)))
        return y

    def window(self, rule: Rule) -> None:
        """An adder or convolution layer with or without groups and residual."""
        rng, x = self.sample.rng, self.any()
        h, w, c = self.shapes[x]
        groups = int(rng.choice([g for g in range(1, c + 1) if c % g == 0]))
        o = c if groups == c else groups * int(rng.integers(1, 40 // groups + 2))
        padding = (int(rng.integers(0, 3)), int(rng.integers(0, 3)))
        kh = int(rng.integers(1, min(5, h + 2 * padding[0]) + 1))
        kw = int(rng.integers(1, min(5, w + 2 * padding[1]) + 1))
        stride = (int(rng.integers(1, 3)), int(rng.integers(1, 3)))
        weights = self.sample.u8 if rule == "adder2d" else self.sample.i8
        weight = weights(o, kh, kw, c // groups)
        fixed = self.sample.fixed(rule, len(weight), weight[0].size)
        layer = Window(rule, weight, fixed, stride, padding, groups)
        shape = layer(np.zeros(self.shapes[x], np.uint8), 0).shape
        residual = -1
        fitting = [v for v, s in self.shapes.items() if s == shape]
        if fitting and rng.random() < 0.7:
            residual = int(rng.choice(fitting))
            layer.residual_multiplier = int(rng.integers(-(1 << fixed.shift), 1 << fixed.shift))
            layer.residual_multiplier = int(np.clip(layer.residual_multiplier, -(2**31), 2**31 - 1))
        zero = self.zeros[x]
        y = self.node(x, lambda v: layer(v[x], zero, v[residual] if residual >= 0 else None), False)
        getattr(self.program, rule)(
            x, y, weight, stride, padding, groups, fixed.multiplier, fixed.offset, fixed.shift,
            fixed.low, fixed.high, residual, layer.residual_multiplier,
        )  # fmt: skip

    def kernel(self, x: int, largest: int) -> tuple[Pair, Pair]:
        """Kernel and stride of a window that fits x."""
        rng, (h, w, _) = self.sample.rng, self.shapes[x]
        kernel = (
            int(rng.integers(1, min(largest, h) + 1)),
            int(rng.integers(1, min(largest, w) + 1)),
        )
        return kernel, (int(rng.integers(1, 4)), int(rng.integers(1, 4)))

    def max_pool(self) -> None:
        """With channels that take the minimum."""
        rng, x = self.sample.rng, self.any()
        kernel, stride = self.kernel(x, 4)
        padding = (
            int(rng.integers(0, kernel[0] // 2 + 1)),
            int(rng.integers(0, kernel[1] // 2 + 1)),
        )
        minimum = rng.integers(0, 2, self.shapes[x][2], np.uint8)
        y = self.node(x, lambda v: reference.max_pool(v[x], kernel, stride, padding, minimum), True)
        self.program.max_pool(x, y, kernel, stride, padding, minimum)

    def mean(self) -> None:
        """A window without a border."""
        rng, x = self.sample.rng, self.any()
        kernel, stride = self.kernel(x, 9)
        shift = int(rng.integers(1, 30))
        multiplier = int((1 << shift) * rng.uniform(-1, 2) / (kernel[0] * kernel[1]))
        offset = int(rng.integers(-(1 << shift), 1 << shift)) * 50
        y = self.node(
            x,
            lambda v: reference.requantise(
                reference.window_totals(v[x], kernel, stride) * multiplier + offset, shift, 3, 250
            ),
            False,
        )
        self.program.mean(x, y, kernel, stride, multiplier, offset, shift, 3, 250)

    def add(self) -> None:
        """Two values of one shape, perhaps the same one."""
        rng, a = self.sample.rng, self.any()
        b = self.any(self.shapes[a])
        shift = int(rng.integers(1, 30))
        ma, mb = (int((1 << shift) * f) for f in rng.uniform(-1, 1, 2))
        offset = int(rng.integers(-(1 << shift), 1 << shift)) * 200

        def function(v: dict[int, Array]) -> Array:
            total = v[a].astype(np.int64) * ma + v[b].astype(np.int64) * mb + offset
            return reference.requantise(total, shift, 0, 255)

        y = self.node(a, function, False)
        self.program.add(a, b, y, ma, mb, offset, shift, 0, 255)

    def lut(self) -> None:
        """A table per channel."""
        x = self.any()
        table = self.sample.u8(self.shapes[x][2], 256)
        y = self.node(x, lambda v: reference.lut(v[x], table), False)
        self.program.lut(x, y, table)

    def pad(self) -> None:
        """Uneven borders."""
        x = self.any()
        left, right, top, bottom = (int(p) for p in self.sample.rng.integers(0, 3, 4))
        zero = self.zeros[x]
        y = self.node(
            x,
            lambda v: np.pad(v[x], ((top, bottom), (left, right), (0, 0)), constant_values=zero),
            True,
        )
        self.program.pad(x, y, left, right, top, bottom)

    def repeat(self) -> None:
        """Nearest enlargement."""
        x = self.any()
        if self.shapes[x][0] * self.shapes[x][1] > 100:
            return
        factor = int(self.sample.rng.integers(1, 4))
        y = self.node(x, lambda v: v[x].repeat(factor, 0).repeat(factor, 1), True)
        self.program.repeat(x, y, factor)

    def concat(self) -> None:
        """Values of the same rows, columns and zero, perhaps one more than once."""
        rng, x = self.sample.rng, self.any()
        fitting = [
            v
            for v, shape in self.shapes.items()
            if shape[:2] == self.shapes[x][:2] and self.zeros[v] == self.zeros[x]
        ]
        xs = [x, *rng.choice(fitting, int(rng.integers(0, 4))).tolist()]
        order = rng.permutation(sum(self.shapes[v][2] for v in xs)).astype(np.int32)
        y = self.node(x, lambda v: np.concatenate([v[n] for n in xs], -1)[..., order], True)
        self.program.concat(xs, y, order)

    def finish(self, outputs: int) -> None:
        """A linear layer on the last value, and `compile`."""
        rng, x = self.sample.rng, max(self.shapes)
        weight = self.sample.i8(outputs, int(np.prod(self.shapes[x])))
        scale = rng.normal(size=outputs).astype(np.float32)
        bias = rng.normal(size=outputs).astype(np.float32)
        self.program.linear(x, weight, scale, bias)
        self.program.compile()
        self.steps.append(lambda v: v.__setitem__(-1, reference.linear(v[x], weight, scale, bias)))

    def expected(self, images: Array, quantised: bool) -> Array:
        """Outputs of images `[N, C, H, W]`, one by one."""
        outputs = []
        for image in images:
            x = image.transpose(1, 2, 0)
            values = {self.input: x if quantised else reference.lut(x, self.table)}
            for step in self.steps:
                step(values)
            outputs.append(values[-1])
        return np.stack(outputs)

    def run(self, images: Array, outputs: int, quantised: bool, threads: int) -> Array:
        """What the program says."""
        out = np.full((len(images), outputs), np.nan, np.float32)
        self.program.run(images, out, quantised, threads)
        return out


def random_network(seed: int, isa: str) -> tuple[Network, int]:
    """A few nodes of any kind, each reading any earlier value."""
    sample = Sample(np.random.default_rng(seed))
    rng = sample.rng
    channels, height, width = (int(n) for n in rng.integers(1, 14, 3))
    network = Network(sample, isa, channels, height, width)
    kinds: list[Callable[[], None]] = [
        lambda: network.window("adder2d"),
        lambda: network.window("adder2d"),
        lambda: network.window("conv2d"),
        network.max_pool,
        network.mean,
        network.add,
        network.lut,
        network.pad,
        network.repeat,
        network.concat,
    ]
    for _ in range(int(rng.integers(1, 8))):
        kinds[int(rng.integers(len(kinds)))]()
    outputs = int(rng.integers(1, 40))
    network.finish(outputs)
    return network, outputs


@pytest.mark.parametrize("isa", ISAS)
def test_random_networks(isa: str) -> None:
    for seed in range(100):
        network, outputs = random_network(seed, isa)
        shape = network.shapes[network.input]
        images = network.sample.u8(3, shape[2], *shape[:2])
        quantised = seed % 2 == 0
        expected = network.expected(images, quantised)
        for threads in (1, 2, 3):
            # Twice: what a run leaves in the arena must not reach the next.
            for _ in range(2):
                got = network.run(images, outputs, quantised, threads)
                assert np.array_equal(got, expected), (seed, threads, network.program.describe())


def apply(layer: Window, x: int, zero: int, values: dict[int, Array]) -> Array:
    return layer(values[x], zero)


@pytest.mark.parametrize("isa", ISAS)
def test_a_network_worth_several_threads(isa: str) -> None:
    sample = Sample(np.random.default_rng(5))
    network = Network(sample, isa, 32, 12, 13)
    for _ in range(2):
        x = max(network.shapes)
        weight = sample.u8(200, 3, 3, network.shapes[x][2])
        layer = Window(
            "adder2d", weight, sample.fixed("adder2d", 200, weight[0].size), (1, 1), (1, 1)
        )
        fixed = layer.fixed
        y = network.node(x, partial(apply, layer, x, network.zeros[x]), False)
        network.program.adder2d(
            x, y, weight, (1, 1), (1, 1), 1, fixed.multiplier, fixed.offset, fixed.shift,
            fixed.low, fixed.high,
        )  # fmt: skip
    network.finish(100)
    images = sample.u8(5, 32, 12, 13)
    expected = network.expected(images, False)
    for batch in (1, 2, 5):
        for threads in (1, 2, 3):
            got = network.run(images[:batch], 100, False, threads)
            assert np.array_equal(got, expected[:batch]), (batch, threads)
    out = np.zeros((5, 100), np.float32)
    seconds = network.program.profile(images, out, False, 3)
    assert np.array_equal(out, expected)
    assert len(seconds) == len(network.program.describe()) == 4
    assert all(second > 0 for second in seconds)


def test_shift_alone_and_every_bound_of_the_fixed_point_step() -> None:
    """One pixel, one tap: y is the step's formula by Python's own integers."""
    cases = [
        (multiplier, offset, shift, low, high)
        for shift in (1, 2, 31, 32, 61, 62)
        for multiplier in (1, -1, 1 << 20, -(1 << 31), (1 << 31) - 1, 0)
        for offset in (0, 100 << shift, -(1 << 60), (1 << 61) - (1 << 41), 3)
        for low, high in ((0, 255), (7, 9))
        if abs(offset) + 255 * abs(multiplier) + (1 << (shift - 1)) < 1 << 62
    ]
    for isa in ISAS:
        for shift in (1, 2, 31, 32, 61, 62):
            for low, high in ((0, 255), (7, 9)):
                chosen = [c for c in cases if c[2:] == (shift, low, high)]
                program = core().Program(isa)
                x = program.value(1, 1, 1, 0)
                program.input_quantised(x)
                y = program.value(len(chosen), 1, 1, 0)
                program.adder2d(
                    x, y, np.zeros((len(chosen), 1, 1, 1), np.uint8), (1, 1), (0, 0), 1,
                    np.array([c[0] for c in chosen], np.int32),
                    np.array([c[1] for c in chosen], np.int64), shift, low, high,
                )  # fmt: skip
                ones = np.ones(len(chosen), np.float32)
                program.linear(y, np.eye(len(chosen), dtype=np.int8), ones, 0 * ones)
                program.compile()
                for q in (0, 1, 254, 255):
                    out = np.zeros((1, len(chosen)), np.float32)
                    program.run(np.full((1, 1, 1, 1), q, np.uint8), out, True, 1)
                    expected = [
                        max(low, min(high, (-q * m + offset + (1 << (shift - 1))) >> shift))
                        for m, offset, *_ in chosen
                    ]
                    assert out[0].tolist() == expected


def test_largest_layers_of_the_arena_share_memory() -> None:
    program = core().Program()
    values = [program.value(16, 32, 32, 0) for _ in range(6)]
    program.input_quantised(values[0])
    table = np.zeros((16, 256), np.uint8)
    for x, y in itertools.pairwise(values):
        program.lut(x, y, table)
    program.linear(values[-1], np.zeros((1, 16384), np.int8), *np.zeros((2, 1), np.float32))
    program.compile()
    size = program.arena_bytes(1)
    assert 2 * 16384 <= size <= 2 * 16384 + 1024
    assert program.arena_bytes(32) == size
    assert program.arena_bytes(0) == 0
    assert program.describe()[:3] == ["input", "lut", "lut"]


def pooled(node: str, side: int, window: int, stride: int) -> tuple[list[str], int]:
    """What computes windows of one map, and the bytes of its arena."""
    program = core().Program()
    outputs = (side - window) // stride + 1
    x, y = program.value(1, side, side, 0), program.value(1, outputs, outputs, 0)
    program.input_quantised(x)
    if node == "max_pool":
        minimum = np.zeros(1, np.uint8)
        program.max_pool(x, y, (window, window), (stride, stride), (0, 0), minimum)
    else:
        program.mean(x, y, (window, window), (stride, stride), 1, 0, 16, 0, 255)
    taps = outputs * outputs
    program.linear(y, np.zeros((1, taps), np.int8), *np.zeros((2, 1), np.float32))
    program.compile()
    return program.describe(), program.arena_bytes(1)


@pytest.mark.parametrize(
    ("node", "running"), [("max_pool", "max_pool: running maxima"), ("mean", "mean: running sums")]
)
def test_windows_that_overlap_much_take_turns_in_rows_and_columns(node: str, running: str) -> None:
    for side, window, stride in ((64, 3, 1), (64, 3, 2), (64, 64, 1), (63, 21, 21)):
        assert pooled(node, side, window, stride)[0][1] == node
    for side, window, stride in ((64, 15, 1), (256, 64, 2), (256, 100, 3)):
        assert pooled(node, side, window, stride)[0][1] == running


def test_running_maxima_take_the_memory_of_two_maps() -> None:
    _, size = pooled("max_pool", 256, 64, 1)
    assert size <= 3 * 256 * 256 + 1024


def started() -> tuple[Any, int, int]:
    """A program with an input `[4, 5, 6]` (C, H, W) and a value to write of the same shape."""
    program = core().Program()
    x = program.value(4, 5, 6, 3)
    program.input_quantised(x)
    return program, x, program.value(4, 5, 6, 3)


TABLE = np.zeros((4, 256), np.uint8)
NODES: dict[str, dict[str, Any]] = {
    "adder2d": {
        "weight": np.zeros((4, 1, 1, 4), np.uint8),
        "stride": (1, 1),
        "padding": (0, 0),
        "groups": 1,
        "multiplier": np.zeros(4, np.int32),
        "offset": np.zeros(4, np.int64),
        "shift": 1,
        "low": 0,
        "high": 255,
    },
    "max_pool": {
        "kernel": (1, 1),
        "stride": (1, 1),
        "padding": (0, 0),
        "minimum": np.zeros(4, np.uint8),
    },
    "mean": {
        "kernel": (1, 1),
        "stride": (1, 1),
        "multiplier": 1,
        "offset": 0,
        "shift": 1,
        "low": 0,
        "high": 255,
    },
    "lut": {"table": TABLE},
    "pad": {"left": 0, "right": 0, "top": 0, "bottom": 0},
    "repeat": {"factor": 1},
}


@pytest.mark.parametrize(
    ("node", "changes", "message"),
    [
        ("adder2d", {"x": 7}, "`x` must be a value that an earlier node has written, got 7"),
        ("adder2d", {"x": -1}, "`x` must be a value that an earlier node has written, got -1"),
        ("adder2d", {"x": 1}, "`x` must be a value that an earlier node has written, got 1"),
        ("adder2d", {"y": 0}, "`y` must be a value that no node has written, got 0"),
        ("adder2d", {"y": 2}, "`y` must be a value that no node has written, got 2"),
        ("adder2d", {"stride": (2, 2)}, r"`y` must have shape \[4, 3, 3\], got \[4, 5, 6\]"),
        ("adder2d", {"multiplier": np.zeros(3, np.int32)}, r"`multiplier, offset` must have 4 val"),
        ("adder2d", {"offset": np.zeros(5, np.int64)}, r"`multiplier, offset` must have 4 values"),
        ("adder2d", {"shift": 0}, r"`shift` must be in \[1, 62\], got 0"),
        ("adder2d", {"shift": 63}, r"`shift` must be in \[1, 62\], got 63"),
        ("adder2d", {"low": -1}, r"`low, high` must be an interval in \[0, 255\], got \(-1, 255\)"),
        ("adder2d", {"low": 9, "high": 8}, r"`low, high` must be an interval"),
        ("adder2d", {"high": 256}, r"`low, high` must be an interval"),
        (
            "adder2d",
            {"offset": np.array([0, 0, -(2**63), 0])},
            r"`multiplier, offset` must keep every value below 2\*\*62 in magnitude, got "
            r"\(0, -9223372036854775808\) at filter 2",
        ),
        ("adder2d", {"residual": 1}, "`residual` must be a value that an earlier node has written"),
        ("adder2d", {"residual": -2}, "`residual` must be a value that an earlier node has"),
        ("adder2d", {"groups": 5}, "`groups` must be positive and divide the 4 input and 4 output"),
        ("max_pool", {"kernel": (0, 1)}, r"`kernel` must be positive and below 2\*\*31"),
        ("max_pool", {"stride": (1, 0)}, r"`stride` must be positive and below 2\*\*31"),
        ("max_pool", {"padding": (1, 0)}, r"`padding` must be non-negative and at most half of"),
        ("max_pool", {"kernel": (9, 9)}, r"`y` must have shape \[4, 0, 0\], got \[4, 5, 6\]"),
        ("max_pool", {"minimum": np.zeros(3, np.uint8)}, "`minimum` must have 4 values, got 3"),
        ("mean", {"kernel": (2, 1)}, r"`y` must have shape \[4, 4, 6\], got \[4, 5, 6\]"),
        ("mean", {"kernel": (-1, 1)}, r"`kernel` must be positive and below 2\*\*31"),
        ("mean", {"multiplier": 2**31}, "`multiplier` must fit 32 bits, got 2147483648"),
        ("mean", {"offset": 2**62}, r"`multiplier, offset` must keep every value below 2\*\*62"),
        ("lut", {"table": TABLE[:3]}, r"`table` must have shape \(4, 256\), got \(3, 256\)"),
        ("pad", {"left": -1}, r"`left, right, top, bottom` must be non-negative"),
        ("pad", {"left": 1}, r"`y` must have shape \[4, 5, 7\], got \[4, 5, 6\]"),
        ("repeat", {"factor": 0}, r"`factor` must be positive and below 2\*\*31, got 0"),
        ("repeat", {"factor": 2}, r"`y` must have shape \[4, 10, 12\], got \[4, 5, 6\]"),
    ],
)
def test_wrong_nodes(node: str, changes: dict[str, Any], message: str) -> None:
    program, x, y = started()
    with pytest.raises(ValueError, match=f"^{node}: {message}"):
        getattr(program, node)(**({"x": x, "y": y} | NODES[node] | changes))
    getattr(program, node)(x=x, y=y, **NODES[node])


def test_wrong_stacks() -> None:
    program, x, _ = started()
    small, odd = program.value(4, 1, 1, 3), program.value(4, 5, 6, 4)
    program.mean(x, small, (5, 6), (1, 1), 1, 0, 1, 0, 255)
    program.lut(x, odd, TABLE)
    y, order = program.value(8, 5, 6, 3), np.arange(8, dtype=np.int32)
    with pytest.raises(ValueError, match=r"^concat: `xs` must hold a value, got none"):
        program.concat([], y, order)
    with pytest.raises(ValueError, match=r"^concat: `xs` must be a value that an earlier node has"):
        program.concat([x, y], y, order)
    with pytest.raises(ValueError, match=r"^concat: `y` must be a value that no node has written"):
        program.concat([x, x], odd, order)
    with pytest.raises(ValueError, match=r"^concat: `xs` must have the rows and columns of the fi"):
        program.concat([x, small], y, order)
    with pytest.raises(ValueError, match=r"^concat: `y` must have the zero of xs, 4, got 3"):
        program.concat([x, odd], y, order)
    with pytest.raises(
        ValueError, match=r"^concat: `y` must have shape \[4, 5, 6\], got \[8, 5, 6"
    ):
        program.concat([x], y, order)
    with pytest.raises(ValueError, match=r"^concat: `order` must have 8 values, got 7"):
        program.concat([x, x], y, order[:7])
    for wrong in (-1, 1, 8):
        changed = order.copy()
        changed[0] = wrong
        with pytest.raises(ValueError, match=r"^concat: `order` must be a permutation of \[0, 8\)"):
            program.concat([x, x], y, changed)
    program.concat([x, x], y, order)


@pytest.mark.parametrize("node", ["max_pool", "pad", "repeat"])
def test_nodes_that_keep_the_zero(node: str) -> None:
    program, x, _ = started()
    other = program.value(4, 5, 6, 4)
    with pytest.raises(ValueError, match=f"^{node}: `y` must have the zero of x, 3, got 4"):
        getattr(program, node)(x=x, y=other, **NODES[node])


def test_wrong_values_and_inputs() -> None:
    program = core().Program()
    for shape in ((0, 1, 1), (1, -1, 1), (2**20, 2**10, 2), (2**62, 2**62, 2**62)):
        with pytest.raises(ValueError, match="must be positive with a product below"):
            program.value(*shape, 0)
    with pytest.raises(ValueError, match=r"value: `zero` must be in \[0, 255\], got -1"):
        program.value(1, 1, 1, -1)
    x, y = program.value(4, 5, 6, 0), program.value(4, 5, 6, 0)
    with pytest.raises(ValueError, match="input_quantised: `y` must be a value that no node"):
        program.input_quantised(2)
    program.input_quantised(x)
    with pytest.raises(ValueError, match="input_quantised: `y` must be the program's one input"):
        program.input_quantised(y)
    with pytest.raises(ValueError, match=r"input_pixels: `table` must have shape \(4, 256\)"):
        program.input_pixels(x, TABLE[:1])
    program.input_pixels(x, TABLE)
    with pytest.raises(ValueError, match="Program: `isa` must be one of"):
        core().Program("sse9")


def test_wrong_residual_sum_and_classifier() -> None:
    program, x, y = started()
    small = program.value(4, 1, 1, 0)
    program.mean(x, small, (5, 6), (1, 1), 1, 0, 1, 0, 255)
    with pytest.raises(ValueError, match=r"add: `b` must have shape \[4, 5, 6\], got \[4, 1, 1\]"):
        program.add(x, small, y, 1, 1, 0, 1, 0, 255)
    with pytest.raises(ValueError, match=r"add: `y` must have shape \[4, 5, 6\], got \[4, 1, 2\]"):
        program.add(x, x, program.value(4, 1, 2, 0), 1, 1, 0, 1, 0, 255)
    with pytest.raises(ValueError, match=r"adder2d: `residual` must have shape \[4, 5, 6\]"):
        program.adder2d(x, y, **NODES["adder2d"], residual=small)
    weight, ones = np.zeros((2, 120), np.int8), np.ones(2, np.float32)
    with pytest.raises(ValueError, match=r"linear: `weight` must have shape \[O, 120\]"):
        program.linear(x, weight[:, :119].copy(), ones, ones)
    with pytest.raises(ValueError, match=r"linear: `weight` must have shape \[O, 120\]"):
        program.linear(x, weight[:0], ones, ones)
    with pytest.raises(ValueError, match=r"linear: `scale, bias` must have 2 values each"):
        program.linear(x, weight, ones, ones[:1])
    with pytest.raises(ValueError, match="compile: `program` must have an input and end with a"):
        program.compile()
    program = core().Program()
    x, y = program.value(1, 3000, 3000, 0), program.value(1, 1, 1, 0)
    program.input_quantised(x)
    with pytest.raises(ValueError, match=r"mean: `kernel` must have sums below 2\*\*31"):
        program.mean(x, y, (3000, 3000), (1, 1), 1, 0, 1, 0, 255)


def test_a_border_that_does_not_fit() -> None:
    program = core().Program()
    x = program.value(1, 1, 2**20, 0)
    program.input_quantised(x)
    window = dict(NODES["adder2d"], multiplier=np.zeros(1, np.int32), offset=np.zeros(1, np.int64))
    window["weight"] = np.zeros((1, 1, 1, 1), np.uint8)
    # Each padding is possible; a border wide enough for both is not.
    for stride, padding in (((2**20, 2**20), (1000, 0)), ((1, 2**30), (0, 2**29))):
        window |= {"stride": stride, "padding": padding}
        width = (2**20 + 2 * padding[1] - 1) // stride[1] + 1
        y = program.value(1, 1, width, 0)
        program.adder2d(x, y, **window)
    program.linear(y, np.zeros((1, width), np.int8), *np.zeros((2, 1), np.float32))
    with pytest.raises(ValueError, match="compile: `padding` must leave every value with its bord"):
        program.compile()


def test_wrong_runs() -> None:
    program, x, _ = started()
    images, out = np.zeros((2, 4, 5, 6), np.uint8), np.zeros((2, 3), np.float32)
    for method in ("run", "profile"):
        with pytest.raises(ValueError, match=f"{method}: `program` must be compiled"):
            getattr(program, method)(images, out, True, 1)
    with pytest.raises(ValueError, match="describe: `program` must be compiled"):
        program.describe()
    with pytest.raises(ValueError, match="arena_bytes: `program` must be compiled"):
        program.arena_bytes(1)
    program.linear(x, np.zeros((3, 120), np.int8), *np.zeros((2, 3), np.float32))
    with pytest.raises(ValueError, match="value: `program` must have no linear layer yet"):
        program.value(1, 1, 1, 0)
    program.compile()
    with pytest.raises(ValueError, match="compile: `program` must be compiled once"):
        program.compile()
    with pytest.raises(ValueError, match="lut: `program` must have no linear layer yet"):
        program.lut(x, x, TABLE)
    for method in ("run", "profile"):
        run = getattr(program, method)
        with pytest.raises(ValueError, match=rf"{method}: `input` must have shape \[N, 4, 5, 6\]"):
            run(np.zeros((2, 4, 6, 5), np.uint8), out, True, 1)
        with pytest.raises(ValueError, match=rf"{method}: `output` must have shape \(2, 3\)"):
            run(images, out[:1], True, 1)
        with pytest.raises(ValueError, match=f"{method}: `quantised` must be true"):
            run(images, out, False, 1)
        with pytest.raises(ValueError, match=f"{method}: `threads` must be positive, got 0"):
            run(images, out, True, 0)
        needed = program.arena_bytes(1)
        with pytest.raises(
            ValueError,
            match=f"{method}: `memory` must be at least {needed} bytes, got {needed - 1}",
        ):
            run(images, out, True, 1, needed - 1)
        run(images, out, True, 1, needed)
        with pytest.raises(TypeError, match="incompatible function arguments"):
            run(images.astype(np.float32), out, True, 1)
    with pytest.raises(ValueError, match="arena_bytes: `batch` must be non-negative, got -1"):
        program.arena_bytes(-1)
    program.run(images[:0], out[:0], True, 2)
