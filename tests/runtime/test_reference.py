from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.runtime.graphs import array, random_graph, tiny, tiny_parts

from mulfree.errors import DTypeError, ShapeError
from mulfree.nodes import Node, Value
from mulfree.nodes.add import Add
from mulfree.nodes.adder2d import reference as adder2d
from mulfree.nodes.arithmetic import requantise
from mulfree.nodes.concat import Concat
from mulfree.nodes.conv2d import reference as conv2d
from mulfree.nodes.linear import Linear
from mulfree.nodes.lut import Lut
from mulfree.nodes.max_pool import MaxPool
from mulfree.nodes.mean import Mean
from mulfree.nodes.pad import Pad
from mulfree.nodes.repeat import Repeat
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


def window_sums(
    x: NDArray[Any], weight: NDArray[Any], stride: Any, padding: Any, groups: int, zero: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The two accumulators by plain loops over every index."""
    images, height, width, _ = x.shape
    filters, rows, columns, depth = weight.shape
    out_rows = (height + 2 * padding[0] - rows) // stride[0] + 1
    out_columns = (width + 2 * padding[1] - columns) // stride[1] + 1
    adder = np.zeros((images, out_rows, out_columns, filters), np.int64)
    conv = np.zeros_like(adder)
    for n, i, j, o in np.ndindex(adder.shape):
        for a, b, c in np.ndindex(rows, columns, depth):
            row, column = i * stride[0] + a - padding[0], j * stride[1] + b - padding[1]
            channel = o // (filters // groups) * depth + c
            inside = 0 <= row < height and 0 <= column < width
            q = int(x[n, row, column, channel]) if inside else zero
            adder[n, i, j, o] -= abs(q - int(weight[o, a, b, c]))
            conv[n, i, j, o] += q * int(weight[o, a, b, c])
    return adder, conv


@pytest.mark.parametrize(
    ("height", "width", "kernel", "stride", "padding", "groups"),
    [
        (4, 5, (3, 3), (1, 1), (1, 1), 1),
        (5, 4, (3, 2), (2, 1), (2, 0), 2),
        (1, 7, (1, 5), (1, 3), (0, 4), 4),
        (3, 3, (1, 1), (2, 2), (0, 0), 1),
    ],
)
def test_windows_against_loops(
    height: int, width: int, kernel: Any, stride: Any, padding: Any, groups: int
) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (2, height, width, 4), dtype=np.uint8)
    shape = (8, *kernel, 4 // groups)
    weight = rng.integers(0, 256, shape, dtype=np.uint8)
    signed = rng.integers(-128, 128, shape, dtype=np.int8)
    got = adder2d.accumulator(x, weight, stride, padding, groups, zero=31)
    np.testing.assert_array_equal(got, window_sums(x, weight, stride, padding, groups, 31)[0])
    got = conv2d.accumulator(x, signed, stride, padding, groups, zero=31)
    np.testing.assert_array_equal(got, window_sums(x, signed, stride, padding, groups, 31)[1])
    assert got.dtype == np.int32


def test_convolution_is_torchs() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (2, 9, 8, 6), dtype=np.uint8)
    weight = rng.integers(-128, 128, (4, 3, 5, 3), dtype=np.int8)
    got = conv2d.accumulator(x, weight, (2, 1), (1, 2), 2, zero=0)
    expected = torch.nn.functional.conv2d(
        torch.from_numpy(x.transpose(0, 3, 1, 2).astype(np.int32)),
        torch.from_numpy(weight.transpose(0, 3, 1, 2).astype(np.int32)),
        stride=(2, 1),
        padding=(1, 2),
        groups=2,
    )
    np.testing.assert_array_equal(got.transpose(0, 3, 1, 2), expected.numpy())


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


def test_epilogue_with_residual() -> None:
    parts = tiny_parts()
    adder = parts["nodes"][0]
    second = type(adder)(
        name="second",
        input="y",
        output="w",
        weight=np.zeros((2, 1, 1, 2), np.uint8),
        multiplier=array([2, -2], "int32"),
        offset=array([1000, -7], "int64"),
        shift=3,
        clamp_min=1,
        clamp_max=200,
        residual="y",
        residual_multiplier=-5,
    )
    x = array([[[[10, 20], [30, 40]]]], "uint8")
    source = Value(name="y", shape=(2, 1, 2), scale=1.0, zero_point=0)
    got = reference.evaluate(second, source, {"y": x})
    # acc = -30 and -70; (-60 + 1000 - 50 + 4) >> 3, (60 - 7 - 100 + 4) >> 3 < 1;
    # (-140 + 1000 - 150 + 4) >> 3, (140 - 7 - 200 + 4) >> 3 < 1.
    assert got.tolist() == [[[[111, 1], [89, 1]]]]


BOARD = array([[[[1], [2], [3]], [[4], [5], [6]], [[7], [8], [9]]]], "uint8")
NAMES: dict[str, Any] = {"name": "n", "input": "x", "output": "y"}


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (
            MaxPool(
                **NAMES,
                kernel=(2, 2),
                stride=(1, 2),
                padding=(0, 1),
                minimum=np.zeros(1, np.uint8),
            ),
            [[4, 6], [7, 9]],
        ),
        (
            MaxPool(
                **NAMES, kernel=(2, 2), stride=(2, 2), padding=(1, 1), minimum=np.ones(1, np.uint8)
            ),
            [[1, 2], [4, 5]],
        ),
        (
            Mean(
                **NAMES,
                kernel=(2, 3),
                stride=(1, 1),
                multiplier=3,
                offset=1,
                shift=2,
                clamp_min=0,
                clamp_max=29,
            ),
            [[(21 * 3 + 1 + 2) >> 2], [29]],
        ),
        (
            Add(
                **NAMES,
                other="x",
                multiplier=3,
                other_multiplier=-1,
                offset=4,
                shift=1,
                clamp_min=0,
                clamp_max=255,
            ),
            [[3, 4, 5], [6, 7, 8], [9, 10, 11]],
        ),
        (
            Lut(**NAMES, table=np.arange(255, -1, -1, dtype=np.uint8)[None]),
            [[254, 253, 252], [251, 250, 249], [248, 247, 246]],
        ),
        (
            Pad(**NAMES, left=1, right=0, top=0, bottom=2),
            [[7, 1, 2, 3], [7, 4, 5, 6], [7, 7, 8, 9], [7, 7, 7, 7], [7, 7, 7, 7]],
        ),
        (
            Repeat(**NAMES, factor=2),
            np.kron(BOARD[0, :, :, 0], np.ones((2, 2), np.uint8)).tolist(),
        ),
    ],
    ids=lambda value: value.op if isinstance(value, Node) else "",
)
def test_other_nodes_by_hand(node: Node, expected: list[list[int]]) -> None:
    got = reference.evaluate(node, SOURCE, {"x": BOARD})
    assert got.dtype == np.uint8
    assert got[0, :, :, 0].tolist() == expected


def test_pooling_chooses_by_channel() -> None:
    x = array([[[[1, 1], [9, 9]]]], "uint8")
    node = MaxPool(
        **NAMES, kernel=(1, 2), stride=(1, 1), padding=(0, 0), minimum=array([0, 1], "uint8")
    )
    assert reference.evaluate(node, SOURCE, {"x": x}).tolist() == [[[[9, 1]]]]


def test_tables_are_per_channel() -> None:
    x = array([[[[3, 3]]]], "uint8")
    table = np.stack([np.arange(256), np.arange(256) // 2]).astype(np.uint8)
    got = reference.evaluate(Lut(**NAMES, table=table), SOURCE, {"x": x})
    assert got.tolist() == [[[[3, 1]]]]


def test_channels_are_stacked_and_put_in_order() -> None:
    made = {"x": array([[[[1, 2]]]], "uint8"), "z": array([[[[3]]]], "uint8")}
    order = array([2, 0, 4, 1, 3], "int32")
    node = Concat(**NAMES, others=("z", "x"), order=order)
    # Stacked 1 2 3 1 2.
    assert reference.evaluate(node, SOURCE, made).tolist() == [[[[3, 1, 2, 2, 1]]]]


def test_an_unknown_node_has_no_arithmetic() -> None:
    with pytest.raises(AttributeError, match="no attribute 'op'"):
        reference.evaluate(Node(name="n", input="x", output="y"), SOURCE, {"x": BOARD})


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
