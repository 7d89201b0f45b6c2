from __future__ import annotations

import pytest

from mulfree.errors import ConfigError, ShapeError
from mulfree.operators.window import SAMPLES, Window, output_size, pair, resolve_padding


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((32, 3, 1, 1, 1), 32),
        ((32, 3, 2, 1, 1), 16),
        ((7, 7, 1, 0, 1), 1),
        ((7, 7, 1, 0, 2), -5),
        ((10, 3, 1, 2, 2), 10),
    ],
)
def test_output_size(arguments: tuple[int, int, int, int, int], expected: int) -> None:
    assert output_size(*arguments) == expected


def test_pair_takes_one_number_or_two() -> None:
    assert pair("f", "stride", 3, 1) == (3, 3)
    assert pair("f", "stride", (1, 2), 1) == (1, 2)


@pytest.mark.parametrize("value", [0, (1, 0), (1, 2, 3), 1.5, (1, "2"), (True, 1)])
def test_pair_refuses(value: object) -> None:
    with pytest.raises(ShapeError, match=r"^f: `stride` must be an integer or a pair .* >= 1, got"):
        pair("f", "stride", value, 1)  # type: ignore[arg-type]


def test_same_padding_puts_the_odd_line_last() -> None:
    assert resolve_padding("f", "same", (3, 4), (1, 1), (2, 1)) == ((2, 1), (0, 1, 0, 0))
    assert resolve_padding("f", "same", (3, 5), (1, 1), (1, 1)) == ((1, 2), None)
    assert resolve_padding("f", "valid", (3, 4), (2, 1), (2, 1)) == ((0, 0), None)


def test_padding_refuses() -> None:
    with pytest.raises(ConfigError, match="did you mean 'same'"):
        resolve_padding("f", "sme", (3, 3), (1, 1), (1, 1))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="`stride` must be 1 with padding='same', got"):
        resolve_padding("f", "same", (3, 3), (2, 1), (1, 1))
    with pytest.raises(ShapeError, match="`padding` must be"):
        resolve_padding("f", -1, (3, 3), (1, 1), (1, 1))


def test_window_shapes_and_name() -> None:
    window = Window(in_channels=4, out_channels=6, groups=2, stride=(2, 1), size=(9, 8))
    assert window.input_shape == (2, 4, 9, 8)
    assert window.weight_shape == (6, 2, 3, 3)
    assert window.output_shape == (2, 6, 5, 8)
    assert str(window) == "n2c4o6x9x8k3x3s21p11g2"
    assert len({str(sample) for sample in SAMPLES}) == len(SAMPLES)
