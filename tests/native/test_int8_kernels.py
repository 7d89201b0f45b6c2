"""The integer window kernels of every instruction set against numpy, bit for bit."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from tests.native.integer_reference import Array, Pair, Rule, Sample, sums
from tests.runtime.graphs import around, pictures

from mulfree._native import core
from mulfree.nodes.sampling import samples
from mulfree.nodes.sliding import SlidingLayer
from mulfree.runtime import Session, reference

ISAS = core().int8_isas()
KERNELS = Path(__file__).parents[2] / "src/mulfree/nodes/csrc/window/kernels.inc"
RULES: list[Rule] = ["adder2d", "conv2d"]


@dataclass
class Case:
    """One random geometry with its arrays; x holds two images."""

    rule: Rule
    x: Array
    w: Array
    stride: Pair
    padding: Pair
    zero: int
    groups: int

    @property
    def expected(self) -> Array:
        """Sums `[N, Ho, Wo, O]`."""
        window = (self.stride, self.padding, self.zero, self.groups)
        return np.stack([sums(self.rule, image, self.w, *window) for image in self.x])

    def run(self, isa: str, out: Array, threads: int = 1) -> None:
        """Calls the kernel."""
        function = core().adder2d_u8 if self.rule == "adder2d" else core().conv2d_s8
        window = (self.stride, self.padding, self.zero, self.groups)
        function(self.x, self.w, out, *window, threads, isa)


def geometry(sample: Sample, rule: Rule) -> Case:
    """Windows of all kinds: overlapping or apart, with border, of groups and depthwise."""
    rng = sample.rng
    groups = int(rng.choice([1, 1, 1, 2, 3]))
    channels = groups * int(rng.integers(1, 30))
    filters = groups * int(rng.choice([1, int(rng.integers(1, 90))]))
    if rng.random() < 0.15:
        groups = filters = channels = int(rng.integers(1, 140))
    kernel = [int(k) for k in rng.choice([1, 2, 3, 5, 7], 2, p=[0.3, 0.1, 0.4, 0.1, 0.1])]
    padding = [int(rng.integers(0, k // 2 + 2)) for k in kernel]
    size = [
        max(1, k - 2 * p) + int(rng.integers(0, 9)) for k, p in zip(kernel, padding, strict=True)
    ]
    weights = sample.u8 if rule == "adder2d" else sample.i8
    return Case(
        rule,
        sample.u8(2, *size, channels),
        weights(filters, *kernel, channels // groups),
        (int(rng.integers(1, 4)), int(rng.integers(1, 4))),
        (padding[0], padding[1]),
        int(rng.integers(0, 256)),
        groups,
    )


def test_int8_isas_are_listed_kernels_with_the_portable_one_last() -> None:
    listed = re.findall(r"^MULFREE_KERNEL\((\w+),", KERNELS.read_text(), re.MULTILINE)
    assert [isa for isa in listed if isa in ISAS] == ISAS
    assert ISAS[-1] == "scalar"
    assert set(core().supported_isas()) <= set(ISAS)


@pytest.mark.parametrize("rule", RULES)
def test_random_geometries_on_every_instruction_set(rule: Rule) -> None:
    sample = Sample()
    for number in range(300):
        case = geometry(sample, rule)
        expected = case.expected
        for isa in ISAS:
            out = np.full(expected.shape, 7, np.int32)
            case.run(isa, out, threads=1 + number % 3)
            assert np.array_equal(out, expected), (isa, case)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("rule", RULES)
def test_extremes_of_values_and_of_length(isa: str, rule: Rule) -> None:
    weights = (0, 255) if rule == "adder2d" else (-128, 127)
    for length in (1, 63, 257, 25_000):
        for x in (0, 255):
            for w in weights:
                dtype = np.uint8 if rule == "adder2d" else np.int8
                shape = (1, 1, 1, length)
                case = Case(
                    rule,
                    np.full(shape, x, np.uint8),
                    np.full((17, 1, 1, length), w, dtype),
                    (1, 1),
                    (0, 0),
                    0,
                    1,
                )
                out = np.zeros((1, 1, 1, 17), np.int32)
                case.run(isa, out)
                one = -abs(x - w) if rule == "adder2d" else x * w
                assert (out == length * one).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("pixels", [1, 6, 7])
@pytest.mark.parametrize("length", [160, 2560])
def test_filters_beyond_one_group_of_tiles(isa: str, pixels: int, length: int) -> None:
    """More weights than a call takes, of pixels that fill a tile, more than that, and only one."""
    sample = Sample()
    filters = (1 << 17) // length + 11
    x = sample.u8(1, 1, pixels, length)
    w = sample.i8(filters, 1, 1, length)
    out = np.zeros((1, 1, pixels, filters), np.int32)
    case = Case("conv2d", x, w, (1, 1), (0, 0), 0, 1)
    case.run(isa, out)
    assert np.array_equal(out[0, 0], x[0, 0].astype(np.int32) @ w[:, 0, 0].astype(np.int32).T)


@pytest.mark.parametrize("isa", ISAS)
def test_depthwise_sums_beyond_16_bits(isa: str) -> None:
    # 17 x 17 taps of 255 exceed a 16-bit sum, 16 x 16 do not.
    for taps in (16, 17):
        x = np.full((1, taps, taps, 5), 255, np.uint8)
        w = np.zeros((5, taps, taps, 1), np.uint8)
        out = np.zeros((1, 1, 1, 5), np.int32)
        core().adder2d_u8(x, w, out, (1, 1), (0, 0), 0, 5, 1, isa)
        assert (out == -255 * taps * taps).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("rule", RULES)
def test_depthwise_geometries(isa: str, rule: Rule) -> None:
    """Channels around the lanes, maps down to one pixel, bytes of all kinds and the extremes."""
    sample = Sample()
    sizes = itertools.cycle([(1, 1), (2, 3), (7, 10)])
    for c, kernel, stride in itertools.product((1, 31, 33, 63, 64, 65, 129), (3, 5), (1, 2)):
        size = next(sizes)
        padding = (kernel // 2, kernel // 2)
        low, high = (0, 255) if rule == "adder2d" else (-128, 127)
        random = sample.u8 if rule == "adder2d" else sample.i8
        largest = np.full((1, *size, c), 255, np.uint8)
        for x, w in (
            (sample.u8(2, *size, c), random(c, kernel, kernel, 1)),
            (largest, np.full((c, kernel, kernel, 1), low, random(1).dtype)),
            (largest, np.full((c, kernel, kernel, 1), high, random(1).dtype)),
        ):
            case = Case(rule, x, w, (stride, stride), padding, int(sample.u8(1)[0]), c)
            out = np.full(case.expected.shape, 7, np.int32)
            case.run(isa, out, threads=2)
            assert np.array_equal(out, case.expected), (kernel, stride, size, c)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("taps", [2559, 2560, 2561])
def test_convolutions_around_the_longest_short_window(isa: str, taps: int) -> None:
    sample = Sample()
    x, w = sample.u8(1, 1, 13, taps), sample.i8(20, 1, 1, taps)
    case = Case("conv2d", x, w, (1, 1), (0, 0), 0, 1)
    out = np.zeros(case.expected.shape, np.int32)
    case.run(isa, out)
    assert np.array_equal(out, case.expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shift", [1, 30, 31, 32, 33, 45, 62])
def test_epilogues_of_every_shift(isa: str, shift: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Factors of all their bits, results on both sides of a byte, with and without residual."""
    monkeypatch.setenv("MULFREE_ISA", isa)
    rng = np.random.default_rng(shift)
    for sample in itertools.islice(samples("conv2d", rng), 12):
        node = sample.node
        assert isinstance(node, SlidingLayer)
        filters = len(node.weight)
        largest = node.taps * node.largest_product
        bound = min(2**31 - 1, 2**60 // largest, max(1, 2**shift * 512 // largest))
        multiplier = rng.integers(-bound, bound, filters, endpoint=True).astype(np.int32)
        offset = rng.integers(-min(2**shift, 2**60), min(2**shift * 256, 2**60), filters)
        residual = 0 if node.residual is None else int(rng.integers(-(2**30), 2**30))
        changed = replace(
            node,
            multiplier=multiplier,
            offset=offset,
            shift=shift,
            residual_multiplier=min(residual, 2**shift),
        )
        graph = around(replace(sample, node=changed), rng)
        given = pictures(rng, graph, 2)
        np.testing.assert_array_equal(Session(graph).run(given), reference.run(graph, given))


def call(**changes: object) -> None:
    arguments: dict[str, object] = {
        "x": np.zeros((1, 4, 4, 4), np.uint8),
        "w": np.zeros((6, 3, 3, 2), np.uint8),
        "out": np.zeros((1, 2, 2, 6), np.int32),
        "stride": (1, 1),
        "padding": (0, 0),
        "zero": 0,
        "groups": 2,
        "threads": 1,
        "isa": "",
    }
    core().adder2d_u8(**(arguments | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": np.zeros((1, 4, 0, 4), np.uint8)}, "`x` must have no empty axis but the first"),
        ({"stride": (0, 1)}, r"`stride` must be positive and below 2\*\*31, got \(0, 1\)"),
        ({"stride": (1, 2**31)}, r"`stride` must be positive and below 2\*\*31"),
        ({"padding": (-1, 0)}, r"`padding` must be non-negative and below 2\*\*31, got \(-1, 0\)"),
        ({"padding": (2**30, 2**30)}, r"`padding` must leave the padded image \[4, 4, 4\] below"),
        ({"groups": 3}, "`groups` must be positive and divide the 4 input and 6 output channels"),
        ({"groups": 0}, "`groups` must be positive"),
        ({"groups": 1}, r"`weight` must have shape \[O, Kh, Kw, 4\] .* got \[6, 3, 3, 2\]"),
        ({"w": np.zeros((0, 3, 3, 2), np.uint8)}, r"`weight` must have shape"),
        (
            {"w": np.zeros((6, 5, 3, 2), np.uint8)},
            r"`weight` must fit the padded image \[4, 4, 4\]",
        ),
        ({"out": np.zeros((1, 2, 2, 5), np.int32)}, r"`out` must have shape \[1, 2, 2, 6\]"),
        ({"zero": 256}, r"`zero` must be in \[0, 255\], got 256"),
        ({"threads": 0}, "`threads` must be positive, got 0"),
        ({"isa": "sse9"}, "`isa` must be one of .*scalar on this machine, got 'sse9'"),
    ],
)
def test_wrong_arguments(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^adder2d_u8: {message}"):
        call(**changes)
    call()


@pytest.mark.parametrize(
    "changes",
    [
        {"x": np.zeros((1, 4, 4, 4), np.int8)},
        {"w": np.zeros((6, 3, 3, 2), np.int8)},
        {"out": np.zeros((1, 2, 2, 6), np.float32)},
        {"x": np.zeros((4, 4, 4), np.uint8)},
        {"x": np.zeros((1, 4, 4, 8), np.uint8)[..., ::2]},
    ],
)
def test_wrong_kinds_of_arrays(changes: dict[str, object]) -> None:
    with pytest.raises(TypeError, match="incompatible function arguments"):
        call(**changes)


def test_sums_beyond_32_bits_are_refused() -> None:
    length = (2**31 - 1) // (255 * 128) + 1
    x = np.zeros((1, 1, 1, length), np.uint8)
    w = np.zeros((1, 1, 1, length), np.int8)
    out = np.zeros((1, 1, 1, 1), np.int32)
    with pytest.raises(ValueError, match="`weight` must have at most 65793 values per filter"):
        core().conv2d_s8(x, w, out, (1, 1), (0, 0), 0, 1, 1, "")


def test_the_environment_chooses_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    for isa in core().supported_isas():
        monkeypatch.setenv("MULFREE_ISA", isa)
        call()
    monkeypatch.setenv("MULFREE_ISA", "sse9")
    with pytest.raises(ValueError, match="adder2d_u8: `MULFREE_ISA` must be one of"):
        call()
    call(isa="scalar")


def test_no_image_is_no_work() -> None:
    call(x=np.zeros((0, 4, 4, 4), np.uint8), out=np.zeros((0, 2, 2, 6), np.int32))
