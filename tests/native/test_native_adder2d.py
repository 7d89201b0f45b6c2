"""The compiled adder2d kernels against their float64 definition, on every instruction set."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.native.reference import Array, Geometry, Rule
from tests.native.reference import forward as define_forward
from tests.native.reference import input_grad as define_input_grad
from tests.native.reference import weight_grad as define_weight_grad

from mulfree._native import core

RULES: tuple[Rule, ...] = ("adder", "sign")
_native = core()
ISAS = _native.supported_isas()
DTYPES = (np.float32, np.float64)
KERNELS = Path(__file__).parents[2] / "src/mulfree/operators/adder2d/csrc/kernels.inc"


def depthwise(
    *,
    n: int = 2,
    c: int,
    h: int,
    w: int,
    k: int,
    stride: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
) -> Geometry:
    """A filter for each channel, padded by half of its reach."""
    return Geometry(
        n=n,
        c=c,
        h=h,
        w=w,
        co=c,
        groups=c,
        kernel=(k, k),
        stride=stride,
        padding=(k // 2 * dilation[0], k // 2 * dilation[1]),
        dilation=dilation,
    )


# Tiles are 48, 16 and 8 lanes wide in forward, 48, 16 and 8 in the input gradient, blocks 768,
# 384 and 192 in the weight gradient: sizes below, at and above each, and every kind of window.
GEOMETRIES = {
    "one value": Geometry(),
    "no images": Geometry(n=0, c=2, h=3, w=3, co=2, kernel=(3, 3), padding=(1, 1)),
    "no filters": Geometry(n=2, c=2, h=3, w=3, co=0, kernel=(3, 3)),
    "no channels": Geometry(n=2, c=0, h=3, w=3, co=2, kernel=(3, 3)),
    "empty plane": Geometry(n=2, c=2, h=0, w=3, co=2, kernel=(2, 2), padding=(1, 1)),
    "lanes 7": Geometry(c=3, w=7, co=7),
    "lanes 8": Geometry(c=3, w=8, co=8),
    "lanes 15": Geometry(c=5, h=3, w=5, co=9),
    "lanes 16": Geometry(c=5, h=4, w=4, co=15),
    "lanes 17": Geometry(c=5, w=17, co=17),
    "lanes 47": Geometry(c=2, w=47, co=2),
    "lanes 48": Geometry(n=3, c=2, h=4, w=4, co=3),
    "lanes 49": Geometry(c=37, h=7, w=7, co=5, kernel=(3, 3), padding=(1, 1)),
    "lanes 767": Geometry(c=1, h=13, w=59, co=6),
    "lanes 768": Geometry(n=3, c=8, h=16, w=16, co=4, kernel=(3, 3), padding=(1, 1)),
    "lanes 769": Geometry(c=1, w=769, co=3),
    "row split": Geometry(c=2, h=2, w=1700, co=3, kernel=(1, 5), stride=(1, 2)),
    "linear": Geometry(n=130, c=40, co=10),
    "stem": Geometry(n=2, c=3, h=20, w=22, co=8, kernel=(7, 7), stride=(2, 2), padding=(3, 3)),
    "down": Geometry(n=2, c=6, h=13, w=40, co=9, kernel=(3, 3), stride=(2, 2), padding=(1, 1)),
    "shortcut": Geometry(n=2, c=6, h=9, w=34, co=9, stride=(2, 2)),
    "stride 3": Geometry(n=2, c=3, h=11, w=13, co=4, kernel=(2, 4), stride=(3, 3), padding=(1, 2)),
    "gaps": Geometry(n=2, c=3, h=17, w=19, co=4, kernel=(2, 1), stride=(5, 4)),
    "dilation": Geometry(
        n=2, c=3, h=12, w=21, co=4, kernel=(3, 2), padding=(2, 3), dilation=(2, 3), stride=(1, 2)
    ),
    "phases shared": Geometry(
        n=2, c=3, h=12, w=21, co=4, kernel=(3, 3), padding=(2, 2), dilation=(2, 2), stride=(2, 2)
    ),
    "groups": Geometry(n=2, c=6, h=6, w=7, co=9, kernel=(3, 3), padding=(1, 1), groups=3),
    "depthwise": Geometry(n=2, c=10, h=9, w=33, co=10, kernel=(3, 3), padding=(1, 1), groups=10),
    "depthwise in place": depthwise(c=3, h=9, w=64, k=3),
    "depthwise in bands": depthwise(n=1, c=2, h=90, w=96, k=3),
    "depthwise 5x5": depthwise(c=5, h=7, w=7, k=5),
    "depthwise 14": depthwise(c=9, h=14, w=14, k=5),
    "depthwise down": depthwise(c=5, h=15, w=13, k=3, stride=(2, 2)),
    "depthwise down 5x5": depthwise(c=4, h=14, w=14, k=5, stride=(2, 2)),
    "depthwise down in place": depthwise(c=2, h=20, w=128, k=3, stride=(2, 2)),
    "depthwise down in bands": depthwise(n=1, c=2, h=112, w=112, k=5, stride=(2, 2)),
    "depthwise down by rows": depthwise(c=3, h=9, w=17, k=4, stride=(2, 1)),
    "depthwise down by columns": depthwise(c=3, h=9, w=18, k=3, stride=(1, 2)),
    "depthwise dilated": depthwise(c=3, h=12, w=15, k=3, dilation=(2, 3)),
    "depthwise dilated down": depthwise(c=3, h=12, w=15, k=3, stride=(2, 1), dilation=(3, 2)),
    "depthwise stride 3": depthwise(c=3, h=12, w=15, k=3, stride=(3, 3)),
    "depthwise even kernel": depthwise(c=3, h=6, w=8, k=4, stride=(2, 2)),
    "depthwise of pixels": depthwise(c=17, h=6, w=7, k=1, stride=(2, 2)),
    "depthwise far padding": Geometry(
        n=2, c=3, h=4, w=5, co=3, kernel=(2, 2), padding=(4, 3), stride=(2, 2), groups=3
    ),
    "depth multiplier": Geometry(c=3, h=5, w=5, co=6, kernel=(3, 3), stride=(2, 2), groups=3),
    "kernel over input": Geometry(c=2, h=3, w=2, co=3, kernel=(5, 6), padding=(2, 2)),
    "only padding": Geometry(c=2, h=1, w=1, co=2, kernel=(1, 1), stride=(3, 3), padding=(3, 3)),
    "large window": Geometry(c=2, h=14, w=17, co=9, kernel=(11, 13), padding=(5, 6)),
    "deep": Geometry(n=2, c=200, h=3, w=3, co=70, kernel=(3, 3), padding=(1, 1)),
    "filters split": Geometry(c=5, h=2, w=2, co=270),
}


def window(geo: Geometry) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int], int]:
    """The window arguments of a native call."""
    return geo.stride, geo.padding, geo.dilation, geo.groups


def forward(geo: Geometry, x: Array, w: Array, isa: str = "", threads: int = 2) -> Array:
    """Run the native forward into memory that is NaN before."""
    out = np.full(geo.output_shape, np.nan, x.dtype)
    _native.adder2d_forward(x, w, out, *window(geo), threads, isa)
    return out


def input_grad(
    geo: Geometry, rule: Rule, g: Array, x: Array, w: Array, isa: str = "", threads: int = 2
) -> Array:
    """Run the native input gradient into memory that is NaN before."""
    out = np.full(geo.input_shape, np.nan, x.dtype)
    _native.adder2d_input_grad(g, x, w, out, *window(geo), rule, threads, isa)
    return out


def weight_grad(
    geo: Geometry, rule: Rule, g: Array, x: Array, w: Array, isa: str = "", threads: int = 2
) -> Array:
    """Run the native weight gradient into memory that is NaN before."""
    out = np.full(geo.weight_shape, np.nan, x.dtype)
    _native.adder2d_weight_grad(g, x, w, out, *window(geo), rule, threads, isa)
    return out


def operands(
    geo: Geometry, dtype: type, *, relu: bool, seed: int = 0
) -> tuple[Array, Array, Array]:
    """Gradient, input and weight with unit normal values."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=geo.input_shape)
    return (
        rng.normal(size=geo.output_shape).astype(dtype),
        (np.maximum(x, 0) if relu else x).astype(dtype),
        rng.normal(size=geo.weight_shape).astype(dtype),
    )


def assert_accurate(got: Array, exact: Array, naive: Array, summands: int) -> None:
    """Error at most twice that of the naive sum in the same dtype, plus sqrt(K) eps max|y|."""
    assert got.shape == exact.shape
    if exact.size == 0:
        return
    bound = 2 * np.abs(naive - exact).max()
    bound += np.sqrt(summands) * np.finfo(got.dtype).eps * np.abs(exact).max()
    assert np.abs(got - exact).max() <= bound


def definition(geo: Geometry, g: Array, x: Array, w: Array) -> list[Array]:
    """Forward and both gradients by both rules, as defined, in the dtype of the operands."""
    found = [define_forward(geo, x, w)]
    for rule in RULES:
        found.append(define_input_grad(geo, rule, g, x, w))
        found.append(define_weight_grad(geo, rule, g, x, w))
    return found


def definitions(geo: Geometry, g: Array, x: Array, w: Array) -> list[tuple[Array, Array]]:
    """Pairs of the definition in float64 and of the naive sum in the dtype of the operands."""
    exact = definition(geo, *(a.astype(np.float64) for a in (g, x, w)))
    naive = exact if x.dtype == np.float64 else definition(geo, g, x, w)
    return list(zip(exact, naive, strict=True))


@functools.cache
def sample(
    name: str, relu: bool, dtype: type
) -> tuple[tuple[Array, Array, Array], list[tuple[Array, Array]]]:
    """Operands of a geometry and their definitions, which no instruction set changes."""
    drawn = operands(GEOMETRIES[name], dtype, relu=relu)
    return drawn, definitions(GEOMETRIES[name], *drawn)


def assert_all_accurate(
    geo: Geometry,
    g: Array,
    x: Array,
    w: Array,
    isa: str,
    defined: Sequence[tuple[Array, Array]] | None = None,
) -> None:
    """Forward and both gradients by both rules against the definition."""
    found = [(forward(geo, x, w, isa), geo.summands[0])]
    for rule in RULES:
        found.append((input_grad(geo, rule, g, x, w, isa), geo.summands[1]))
        found.append((weight_grad(geo, rule, g, x, w, isa), geo.summands[2]))
    for (got, summands), pair in zip(found, defined or definitions(geo, g, x, w), strict=True):
        assert_accurate(got, *pair, summands)


def test_supported_isas_are_listed_kernels_with_the_portable_one_last() -> None:
    listed = re.findall(r"^MULFREE_KERNEL\((\w+),", KERNELS.read_text(), re.MULTILINE)
    assert listed == ["avx512", "avx2", "scalar"]
    assert [isa for isa in listed if isa in ISAS] == ISAS
    assert ISAS[-1] == "scalar"


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("relu", [False, True], ids=["signed", "relu"])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_agrees_with_definition(name: str, relu: bool, dtype: type, isa: str) -> None:
    drawn, defined = sample(name, relu, dtype)
    assert_all_accurate(GEOMETRIES[name], *drawn, isa, defined)


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    """Any small geometry whose kernel fits the padded input."""

    def pair(low: int, high: int) -> tuple[int, int]:
        return draw(st.tuples(st.integers(low, high), st.integers(low, high)))

    kernel, padding, dilation = pair(1, 4), pair(0, 3), pair(1, 3)
    least = [
        max(0, d * (k - 1) + 1 - 2 * p) for k, p, d in zip(kernel, padding, dilation, strict=True)
    ]
    groups = draw(st.integers(1, 3))
    return Geometry(
        n=draw(st.integers(0, 3)),
        c=groups * draw(st.integers(1, 4)),
        h=least[0] + draw(st.integers(0, 6)),
        w=least[1] + draw(st.integers(0, 40)),
        co=groups * draw(st.integers(1, 10)),
        kernel=kernel,
        stride=pair(1, 3),
        padding=padding,
        dilation=dilation,
        groups=groups,
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    geo=geometries(),
    isa=st.sampled_from(ISAS),
    dtype=st.sampled_from(DTYPES),
    relu=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_geometry_agrees_with_definition(
    geo: Geometry, isa: str, dtype: type, relu: bool, seed: int
) -> None:
    assert_all_accurate(geo, *operands(geo, dtype, relu=relu, seed=seed), isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    "name",
    ["lanes 768", "down", "groups", "linear", "filters split", "depthwise 14", "depthwise down"],
)
def test_bits_do_not_depend_on_threads(name: str, isa: str) -> None:
    geo = GEOMETRIES[name]
    g, x, w = operands(geo, np.float32, relu=True)
    one = [forward(geo, x, w, isa, 1)]
    one += [f(geo, rule, g, x, w, isa, 1) for f in (input_grad, weight_grad) for rule in RULES]
    for threads in (2, 3, 5):
        many = [forward(geo, x, w, isa, threads)]
        many += [
            f(geo, rule, g, x, w, isa, threads) for f in (input_grad, weight_grad) for rule in RULES
        ]
        for a, b in zip(one, many, strict=True):
            assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [0.0, 0.3, -0.3, 1e3, 1e-40, 3e38])
def test_equal_operands_give_exactly_zero(value: float, dtype: type, isa: str) -> None:
    geo = Geometry(n=2, c=7, h=6, w=9, co=5, kernel=(3, 3))
    g = operands(geo, dtype, relu=False)[0]
    x: Array = np.full(geo.input_shape, value, dtype)
    w: Array = np.full(geo.weight_shape, value, dtype)
    assert not forward(geo, x, w, isa).any()
    for rule in RULES:
        assert not input_grad(geo, rule, g, x, w, isa).any()
        assert not weight_grad(geo, rule, g, x, w, isa).any()


@pytest.mark.parametrize("isa", ISAS)
def test_equal_rows_of_different_values_give_exactly_zero(isa: str) -> None:
    geo = Geometry(c=90, co=1, kernel=(3, 3), h=3, w=3)
    x = np.abs(operands(geo, np.float32, relu=False)[1])
    assert forward(geo, x, x, isa).item() == 0


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("offset", [0.5, 1.0, 3.0, 10.0, 1000.0])
@pytest.mark.parametrize("channels", [2, 7, 16, 64])
def test_shared_offset_keeps_accuracy(channels: int, offset: float, isa: str) -> None:
    geo = Geometry(n=2, c=channels, h=9, w=9, co=16, kernel=(3, 3))
    g, x, w = operands(geo, np.float32, relu=True)
    assert_all_accurate(geo, g, x + np.float32(offset), w + np.float32(offset), isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e-3, 1e3, 1e30, 1e36])
def test_any_magnitude_keeps_accuracy(scale: float, isa: str) -> None:
    geo = Geometry(n=2, c=16, h=9, w=9, co=9, kernel=(3, 3))
    _, unit_x, unit_w = operands(geo, np.float32, relu=True)
    x: Array = unit_x * np.float32(scale)
    w: Array = unit_w * np.float32(scale)
    exact = define_forward(geo, x.astype(np.float64), w.astype(np.float64))
    assert_accurate(forward(geo, x, w, isa), exact, define_forward(geo, x, w), geo.summands[0])


def last(array: Array) -> Array:
    """An image in channels_last, `[N, H, W, C]`."""
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1))


def assert_all_accurate_in_channels_last(
    geo: Geometry, g: Array, x: Array, w: Array, isa: str, threads: int = 2
) -> None:
    """As `assert_all_accurate`, with images in channels_last."""
    g64, x64, w64 = (a.astype(np.float64) for a in (g, x, w))
    options = (*window(geo), threads, isa, True)
    out, dx, dw = np.full_like(last(g), np.nan), np.full_like(last(x), np.nan), np.empty_like(w)
    assert _native.adder2d_forward(last(x), w, out, *options)
    exact = define_forward(geo, x64, w64)
    assert_accurate(out.transpose(0, 3, 1, 2), exact, define_forward(geo, x, w), geo.summands[0])
    for rule in RULES:
        rest = (*window(geo), rule, threads, isa, True)
        assert _native.adder2d_input_grad(last(g), last(x), w, dx, *rest)
        assert _native.adder2d_weight_grad(last(g), last(x), w, dw, *rest)
        exact = define_input_grad(geo, rule, g64, x64, w64)
        naive = define_input_grad(geo, rule, g, x, w)
        assert_accurate(dx.transpose(0, 3, 1, 2), exact, naive, geo.summands[1])
        exact = define_weight_grad(geo, rule, g64, x64, w64)
        assert_accurate(dw, exact, define_weight_grad(geo, rule, g, x, w), geo.summands[2])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    "geo",
    [
        depthwise(c=48, h=7, w=7, k=5),
        depthwise(c=16, h=14, w=13, k=3),
        depthwise(n=9, c=32, h=8, w=9, k=3, stride=(2, 2)),
        depthwise(c=16, h=9, w=8, k=5, stride=(2, 1), dilation=(1, 2)),
        depthwise(c=16, h=11, w=12, k=4, stride=(3, 4)),
        depthwise(c=16, h=12, w=12, k=3, stride=(2, 2), dilation=(3, 2)),
        depthwise(n=1, c=16, h=60, w=70, k=3),
        depthwise(n=1, c=16, h=61, w=70, k=3, stride=(2, 2)),
        Geometry(n=2, c=16, h=4, w=5, co=16, kernel=(2, 2), padding=(4, 3), groups=16),
        Geometry(n=2, c=16, h=5, w=1, co=16, kernel=(1, 1), stride=(2, 2), groups=16),
    ],
    ids=lambda geo: f"{geo.h}x{geo.w}k{geo.kernel[0]}s{geo.stride[0]}{geo.stride[1]}",
)
def test_channels_last_agrees_with_definition(
    geo: Geometry, threads: int, dtype: type, isa: str
) -> None:
    arrays = operands(geo, dtype, relu=False)
    assert_all_accurate_in_channels_last(geo, *arrays, isa, threads)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("offset", [1.0, 1000.0])
def test_shared_offset_keeps_accuracy_in_channels_last(offset: float, isa: str) -> None:
    geo = depthwise(c=16, h=9, w=9, k=3)
    g, x, w = operands(geo, np.float32, relu=True)
    shift = np.float32(offset)
    assert_all_accurate_in_channels_last(geo, g, x + shift, w + shift, isa)


@pytest.mark.parametrize(
    "geo",
    [
        depthwise(c=15, h=4, w=4, k=3),
        Geometry(n=1, c=16, h=4, w=4, co=32, kernel=(3, 3), groups=16),
        depthwise(c=16, h=9, w=9, k=3, stride=(5, 1)),
        depthwise(n=0, c=16, h=4, w=4, k=3),
    ],
    ids=["channels", "multiplier", "stride", "no images"],
)
def test_channels_last_without_a_kernel_is_left_to_the_caller(geo: Geometry) -> None:
    g, x, w = operands(geo, np.float32, relu=False)
    assert not _native.adder2d_forward(last(x), w, last(g), *window(geo), 1, "", True)
    rest = (*window(geo), "adder", 1, "", True)
    assert not _native.adder2d_input_grad(last(g), last(x), w, last(x), *rest)
    assert not _native.adder2d_weight_grad(last(g), last(x), w, w.copy(), *rest)


NOT_FINITE = (np.nan, np.inf, -np.inf)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("value", NOT_FINITE)
def test_gradients_in_channels_last_are_of_finite_values(value: float, isa: str) -> None:
    geo = depthwise(c=16, h=6, w=5, k=3)
    for place in (1, 2):
        arrays = operands(geo, np.float32, relu=False)
        arrays[place].flat[0] = value
        g, x, w = arrays
        rest = (*window(geo), "adder", 1, isa, True)
        assert not _native.adder2d_input_grad(last(g), last(x), w, last(x), *rest)
        assert not _native.adder2d_weight_grad(last(g), last(x), w, w.copy(), *rest)


def assert_not_finite_as_defined(geo: Geometry, g: Array, x: Array, w: Array, isa: str) -> None:
    """NaN and infinities where the float64 definition has them, in all results by both rules."""
    g64, x64, w64 = (a.astype(np.float64) for a in (g, x, w))
    with np.errstate(invalid="ignore"):
        pairs = [(forward(geo, x, w, isa), define_forward(geo, x64, w64))]
        for rule in RULES:
            for run, define in ((input_grad, define_input_grad), (weight_grad, define_weight_grad)):
                pairs.append((run(geo, rule, g, x, w, isa), define(geo, rule, g64, x64, w64)))
    for got, exact in pairs:
        for kind in (np.isnan, np.isposinf, np.isneginf):
            np.testing.assert_array_equal(kind(got), kind(exact))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("place", [0, 1, 2], ids=["g", "x", "w"])
def test_values_that_are_not_finite_go_where_the_definition_puts_them(
    place: int, value: float, dtype: type, isa: str
) -> None:
    geo = Geometry(n=2, c=3, h=7, w=21, co=9, kernel=(3, 3), padding=(1, 1))
    arrays = operands(geo, dtype, relu=True)
    arrays[place][1, 1, 1, 2] = value
    assert_not_finite_as_defined(geo, *arrays, isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("place", [0, 1, 2], ids=["g", "x", "w"])
@pytest.mark.parametrize(
    "name", ["depthwise 5x5", "depthwise in place", "depthwise down", "depthwise down 5x5"]
)
def test_values_that_are_not_finite_stay_in_their_window_of_a_plane(
    name: str, place: int, value: float, isa: str
) -> None:
    arrays = operands(GEOMETRIES[name], np.float32, relu=False)
    for at in (0, arrays[place].shape[-1] - 1):
        arrays[place][1, 0, -1, at] = value
    assert_not_finite_as_defined(GEOMETRIES[name], *arrays, isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("offset", [1.0, 1000.0])
@pytest.mark.parametrize("name", ["depthwise 5x5", "depthwise in place", "depthwise down 5x5"])
def test_shared_offset_keeps_accuracy_of_depthwise_layers(
    name: str, offset: float, isa: str
) -> None:
    g, x, w = operands(GEOMETRIES[name], np.float32, relu=True)
    shift = np.float32(offset)
    assert_all_accurate(GEOMETRIES[name], g, x + shift, w + shift, isa)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    geo=geometries(),
    isa=st.sampled_from(ISAS),
    dtype=st.sampled_from(DTYPES),
    relu=st.booleans(),
    seed=st.integers(0, 99),
    places=st.lists(
        st.tuples(st.sampled_from([0, 1, 2]), st.sampled_from(NOT_FINITE)), min_size=1, max_size=3
    ),
)
def test_values_that_are_not_finite_in_any_geometry(
    geo: Geometry,
    isa: str,
    dtype: type,
    relu: bool,
    seed: int,
    places: list[tuple[int, float]],
) -> None:
    arrays = operands(geo, dtype, relu=relu, seed=seed)
    rng = np.random.default_rng(seed)
    for place, value in places:
        if arrays[place].size:
            arrays[place].flat[rng.integers(arrays[place].size)] = value
    assert_not_finite_as_defined(geo, *arrays, isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("value", NOT_FINITE)
def test_pixel_that_no_window_meets_has_no_gradient(value: float, isa: str) -> None:
    geo = Geometry(c=2, h=6, w=6, co=3, kernel=(3, 3), stride=(2, 2))
    g, x, w = operands(geo, np.float32, relu=False)
    x[0, 0, 5, 5] = value
    for rule in RULES:
        np.testing.assert_array_equal(input_grad(geo, rule, g, x, w, isa)[0, :, 5], 0)


@pytest.mark.parametrize("isa", ISAS)
def test_weights_whose_mean_overflows_keep_a_finite_gradient(isa: str) -> None:
    geo = Geometry(w=20, co=2)
    g, x, w = operands(geo, np.float32, relu=False)
    w[:, 0, 0, 0] = 3e38, -3e38
    exact = define_weight_grad(geo, "adder", *(a.astype(np.float64) for a in (g * 1e-3, x, w)))
    got = weight_grad(geo, "adder", g * np.float32(1e-3), x, w, isa)
    np.testing.assert_allclose(got, exact, rtol=1e-5)


@pytest.mark.parametrize("isa", ISAS)
def test_equal_infinities_give_nan_and_opposite_ones_minus_infinity(isa: str) -> None:
    geo = Geometry(w=3)
    x = np.array([np.inf, -np.inf, 0], np.float32).reshape(geo.input_shape)
    w = np.full(geo.weight_shape, np.inf, np.float32)
    got = forward(geo, x, w, isa).ravel()
    assert np.isnan(got[0])
    assert got[1] == got[2] == -np.inf


@pytest.mark.parametrize("isa", ISAS)
def test_minus_zero_is_zero(isa: str) -> None:
    geo = Geometry(c=30, h=4, w=5, co=8)
    x = np.full(geo.input_shape, -0.0, np.float32)
    w = np.ones(geo.weight_shape, np.float32)
    w[::2] = -1
    np.testing.assert_array_equal(forward(geo, x, w, isa), np.full(geo.output_shape, -30.0))


def test_zero_size_outputs_and_gradients_are_complete() -> None:
    geo = Geometry(n=0, c=2, h=4, w=4, co=3, kernel=(3, 3))
    g, x, w = operands(geo, np.float32, relu=False)
    assert forward(geo, x, w).shape == (0, 3, 2, 2)
    assert not weight_grad(geo, "adder", g, x, w).any()


def native_call(**changes: object) -> None:
    """Run the forward of a small valid geometry with some arguments changed."""
    geo = Geometry(n=2, c=4, h=5, w=6, co=6, kernel=(3, 3), groups=2)
    arguments: dict[str, object] = {
        "x": np.zeros(geo.input_shape, np.float32),
        "w": np.zeros(geo.weight_shape, np.float32),
        "out": np.zeros(geo.output_shape, np.float32),
        "stride": geo.stride,
        "padding": geo.padding,
        "dilation": geo.dilation,
        "groups": geo.groups,
        "threads": 1,
        "isa": "",
    }
    _native.adder2d_forward(**(arguments | changes))


HUGE = 2**31


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"w": np.zeros((6, 3, 3, 3), np.float32)},
            "`weight` must have shape [6, 2, 3, 3], got [6, 3, 3, 3]",
        ),
        (
            {"w": np.zeros((6, 2, 0, 3), np.float32)},
            "`weight` must have a positive kernel size, got [6, 2, 0, 3]",
        ),
        (
            {"w": np.zeros((6, 2, 6, 3), np.float32)},
            "`weight` must fit the padded input, got kernel (6, 3) with dilation (1, 1) "
            "on input [2, 4, 5, 6] with padding (0, 0)",
        ),
        (
            {"out": np.zeros((2, 6, 3, 5), np.float32)},
            "`out` must have shape [2, 6, 3, 4], got [2, 6, 3, 5]",
        ),
        (
            {"groups": 0},
            "`groups` must be positive and divide the 4 input and 6 output channels, got 0",
        ),
        (
            {"groups": 4},
            "`groups` must be positive and divide the 4 input and 6 output channels, got 4",
        ),
        ({"stride": (0, 1)}, "`stride` must be positive and below 2**31, got (0, 1)"),
        ({"stride": (1, -1)}, "`stride` must be positive and below 2**31, got (1, -1)"),
        ({"dilation": (1, 0)}, "`dilation` must be positive and below 2**31, got (1, 0)"),
        ({"dilation": (HUGE, 1)}, f"`dilation` must be positive and below 2**31, got ({HUGE}, 1)"),
        ({"padding": (-1, 0)}, "`padding` must be non-negative and below 2**31, got (-1, 0)"),
        (
            {"padding": (0, HUGE)},
            f"`padding` must be non-negative and below 2**31, got (0, {HUGE})",
        ),
        ({"padding": (HUGE - 1, HUGE - 1)}, "`out` must have an addressable size, got [2, 6, "),
        ({"threads": 0}, "`threads` must be positive, got 0"),
        ({"isa": "sse9"}, f"`isa` must be one of {', '.join(ISAS)} on this machine, got 'sse9'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_arguments_are_one_clear_line(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"adder2d: {message}")) as caught:
        native_call(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("call", [input_grad, weight_grad])
def test_bad_arguments_of_gradients(call: object) -> None:
    geo = Geometry(c=2, h=4, w=4, co=2, kernel=(3, 3))
    g, x, w = operands(geo, np.float32, relu=False)
    native = _native.adder2d_input_grad if call is input_grad else _native.adder2d_weight_grad
    out = np.zeros_like(x if call is input_grad else w)
    with pytest.raises(ValueError, match="adder2d: `rule` must be one of adder, sign, got 'clip'"):
        native(g, x, w, out, *window(geo), "clip", 1, "")
    with pytest.raises(
        ValueError,
        match=re.escape("adder2d: `grad` must have shape [1, 2, 2, 2], got [1, 2, 4, 4]"),
    ):
        native(x, x, w, out, *window(geo), "adder", 1, "")
    with pytest.raises(ValueError, match=re.escape("adder2d: `out` must have shape")):
        native(g, x, w, g.copy(), *window(geo), "adder", 1, "")


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 4, 5, 6), np.float16),
        np.zeros((2, 4, 5, 6), np.int32),
        np.zeros((2, 4, 5, 6), np.float64),
        np.zeros((2, 4, 5, 12), np.float32)[..., ::2],
        np.zeros((2, 4, 30), np.float32),
    ],
    ids=["float16", "int32", "mixed", "strided", "rank 3"],
)
def test_arrays_are_never_converted(array: Array) -> None:
    with pytest.raises(TypeError, match="incompatible function arguments"):
        native_call(x=array)


def test_huge_window_arguments_are_handled() -> None:
    big = HUGE - 1
    geo = Geometry(c=2, h=3, w=5, co=3, stride=(big, big))
    g, x, w = operands(geo, np.float32, relu=False)
    assert_all_accurate(geo, g, x, w, "")


@pytest.mark.parametrize("isa", ISAS)
def test_environment_forces_the_instruction_set(isa: str) -> None:
    assert run_with_environment(isa) == ""


@pytest.mark.parametrize("isa", ["sse9", "AVX2", " "])
def test_environment_with_an_unknown_instruction_set_is_an_error(isa: str) -> None:
    line = run_with_environment(isa).strip().splitlines()[-1]
    assert line == (
        f"ValueError: adder2d: `MULFREE_ISA` must be one of {', '.join(ISAS)} on this machine, "
        f"got '{isa}'"
    )


def run_with_environment(isa: str) -> str:
    """Standard error of a process that calls the default kernels under MULFREE_ISA."""
    code = (
        "import numpy as np; from mulfree._native import core; one = (1, 1);"
        "a = np.ones((1, 1, 1, 1), np.float32); out = a.copy();"
        "core().adder2d_forward(a, -a, out, one, (0, 0), one, 1, 1, ''); assert out.item() == -2"
    )
    environment = os.environ | {"MULFREE_ISA": isa}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    return done.stderr


def test_native_package_loads_no_torch() -> None:
    code = "import sys; import mulfree._native._core; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
