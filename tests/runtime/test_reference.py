from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.runtime.graphs import array, tiny

from mulfree.nodes import Value
from mulfree.nodes.arithmetic import requantise
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
    assert reference.run(tiny(), pixels(0, 1, 3, 3)).shape == (0, 2)


def test_logits_may_be_infinite() -> None:
    weight, largest = array([[127], [-128]], "int8"), array([3e38, 3e38], "float32")
    node = Linear(name="fc", input="x", weight=weight, scale=largest, bias=largest)
    got = reference.evaluate(node, {"x": SOURCE}, {"x": array([[[[200]]]], "uint8")})
    assert got.tolist() == [[np.inf, -np.inf]]


@pytest.mark.parametrize(
    ("shift", "clamp", "results"),
    [
        (1, (0, 255), {0: 0, 1: 1, 3: 2, -1: 0, -3: 0, 10_000: 255}),
        (2, (0, 255), {6: 2, 5: 1}),
        (62, (0, 255), {2**62 - 1: 1, 2**61 - 1: 0}),
        # Below zero a half rounds up, too: (-5 + 1) >> 1 = -2, by an offset of 3 << 1.
        (1, (0, 40), {-5 + 6: 1, -6 + 6: 0, 100: 40}),
        (1, (3, 9), {-99: 3, 4: 3, 99: 9}),
    ],
)
def test_half_rounds_up_and_the_result_is_clamped(
    shift: int, clamp: tuple[int, int], results: dict[int, int]
) -> None:
    got = requantise(np.array(list(results)), shift, *clamp)
    assert got.tolist() == list(results.values())


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
