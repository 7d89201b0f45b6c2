from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.runtime.graphs import array, random_graph, tiny

from mulfree.errors import DTypeError, ShapeError
from mulfree.nodes import Value
from mulfree.nodes.adder2d import reference as adder2d
from mulfree.nodes.arithmetic import requantise
from mulfree.nodes.conv2d import reference as conv2d
from mulfree.nodes.linear import Linear
from mulfree.runtime import reference

SOURCE = Value(name="x", shape=(1, 1, 1), scale=1.0, zero_point=7)


def pixels(*shape: int) -> NDArray[np.uint8]:
    return np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)


def test_tiny_by_hand() -> None:
    made = reference.trace(tiny(), pixels(1, 3, 3))
    assert made["x"][0, :, :, 0].tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    # First window 0 1 3 4: |0-1| + |1-1| + |3-1| + |4-1| = 6, (100 - 6 + 1) >> 1 = 47;
    # |0-0| + |1-2| + |3-4| + |4-6| = 4, (12 + 1) >> 1 = 6.
    assert made["y"][0, 0, 0].tolist() == [47, 6]
    assert made["y"][0, :, :, 0].tolist() == [[47, 46], [42, 40]]
    # 1 2 4 5 against 0 2 4 6: 2; 3 4 6 7: 8, 4 5 7 8: 12.
    assert made["y"][0, :, :, 1].tolist() == [[6, 3], [12, 18]]
    assert made["z"][0, 0, 0].tolist() == [(47 + 46 + 42 + 40 + 2) // 4, (39 + 2) // 4]
    logits = reference.run(tiny(), pixels(1, 3, 3))
    assert logits.tolist() == [[(44 + 2 * 10) * 0.5 + 1, -44 * 2.0 - 1]]
    assert logits.dtype == np.float32


def test_a_batch_is_its_pictures_one_by_one() -> None:
    batch = pixels(5, 1, 3, 3)
    each = np.concatenate([reference.run(tiny(), picture) for picture in batch])
    np.testing.assert_array_equal(reference.run(tiny(), batch), each)
    assert reference.run(tiny(), batch[:0]).shape == (0, 2)


def test_adder_by_hand() -> None:
    x = array([[[[1, 200]]]], "uint8")
    weight = array([[[[0, 255]]], [[[255, 0]]]], "uint8")
    got = adder2d.accumulator(x, weight, (1, 1), (0, 0), 1, zero=0)
    assert got.tolist() == [[[[-(1 + 55), -(254 + 200)]]]]
    # Each group sees its own channel.
    grouped = array([[[[0]]], [[[255]]]], "uint8")
    assert adder2d.accumulator(x, grouped, (1, 1), (0, 0), 2, zero=0).tolist() == [[[[-1, -55]]]]
    # The frame reads as zero's integer.
    square = np.zeros((1, 3, 1, 1), np.uint8)
    padded = adder2d.accumulator(x[..., :1], square, (1, 1), (2, 0), 1, zero=9)
    assert padded[0, :, 0, 0].tolist() == [-9 - 9 - 1, -9 - 1 - 9, -1 - 9 - 9]


def test_logits_may_be_infinite() -> None:
    weight, largest = array([[127], [-128]], "int8"), array([3e38, 3e38], "float32")
    node = Linear(name="fc", input="x", weight=weight, scale=largest, bias=largest)
    got = reference.evaluate(node, SOURCE, {"x": array([[[[200]]]], "uint8")})
    assert got.tolist() == [[np.inf, -np.inf]]


@pytest.mark.parametrize("value", [0, 255])
def test_extremes(value: int) -> None:
    """The largest sums: 25,000 taps of an adder layer, 65,793 of a convolution."""
    x = np.full((1, 1, 1, 65_793), value, np.uint8)
    weight = np.full((1, 1, 1, 25_000), 255 - value, np.uint8)
    got = adder2d.accumulator(x[..., :25_000], weight, (1, 1), (0, 0), 1, zero=0)
    assert got.item() == -255 * 25_000
    signed = np.full((1, 1, 1, 65_793), -128, np.int8)
    assert conv2d.accumulator(x, signed, (1, 1), (0, 0), 1, zero=0).item() == -128 * value * 65_793


@pytest.mark.parametrize(
    ("v", "shift", "expected"),
    [
        (0, 1, 0),
        (1, 1, 1),
        (3, 1, 2),
        (-1, 1, 0),
        (-3, 1, 0),
        (6, 2, 2),
        (5, 2, 1),
        (2**62 - 1, 62, 1),
        (2**61 - 1, 62, 0),
        (10_000, 1, 255),
    ],
)
def test_half_rounds_up_and_the_result_is_clamped(v: int, shift: int, expected: int) -> None:
    assert requantise(np.array([v]), shift, 0, 255).tolist() == [expected]


def test_negative_numbers_round_down_before_the_clamp() -> None:
    # (-5 + 1) >> 1 = -2 and (-6 + 1) >> 1 = -3, shown by an offset of 3 << 1.
    got = requantise(np.array([-5 + 6, -6 + 6, 100]), 1, 0, 40)
    assert got.tolist() == [1, 0, 40]
    assert requantise(np.array([-99, 4, 99]), 1, 3, 9).tolist() == [3, 3, 9]


def test_floats_round_half_to_even() -> None:
    value = Value(name="x", shape=(1, 1, 1), scale=0.5, zero_point=2)
    given = np.array(
        [-9, -1, -0.75, -0.25, 0, 0.25, 0.75, 1, 126.25, 1e38, np.inf, -np.inf, np.nan]
    )
    got = reference.quantise(given.astype(np.float32), value)
    assert got.tolist() == [0, 0, 0, 2, 2, 2, 4, 4, 254, 255, 255, 0, 0]


def test_floats_are_divided_in_float32() -> None:
    value = Value(name="x", shape=(1, 1, 1), scale=0.1, zero_point=0)
    given = np.arange(0, 25, 1e-3).astype(np.float32)
    expected = np.rint(given / np.float32(0.1))
    np.testing.assert_array_equal(reference.quantise(given, value), expected)


def test_pixels_and_floats_agree() -> None:
    graph = random_graph(np.random.default_rng(3))
    value = graph.input_value
    picture = np.random.default_rng(0).integers(0, 256, (2, *value.shape), dtype=np.uint8)
    got = reference.trace(graph, picture)[value.name]
    channel = value.shape[0] - 1
    expected = graph.input.table[channel][picture[:, channel]]
    np.testing.assert_array_equal(got[..., channel], expected)


@pytest.mark.parametrize("shape", [(1, 3), (2, 3, 3), (1, 1, 3, 4), (1, 1, 1, 3, 3), ()])
def test_wrong_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(
        ShapeError,
        match=r"^Session.run: `array` must have shape \[N, 1, 3, 3\], got \[",
    ):
        reference.run(tiny(), np.zeros(shape, np.uint8))


@pytest.mark.parametrize("dtype", ["int8", "float64", "float16", "bool", ">f4"])
def test_wrong_dtype(dtype: str) -> None:
    with pytest.raises(
        DTypeError, match=r"^Session.run: `array` must be a uint8 or float32 array, got "
    ):
        reference.run(tiny(), np.zeros((1, 1, 3, 3), dtype))


def test_not_an_array() -> None:
    with pytest.raises(DTypeError, match=r"must be a uint8 or float32 array, got list"):
        reference.run(tiny(), np.zeros((1, 3, 3)).tolist())  # type: ignore[arg-type]
