from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mulfree.errors import ConfigError
from mulfree.quantization import Preprocessing


def test_numbers_of_other_types() -> None:
    classes: Any = ["cat", "dog"]
    mean: Any = np.array([0.5, 0.25], np.float32)
    preprocessing = Preprocessing(mean=mean, std=(1, 2), resize=np.int64(8), classes=classes)  # type: ignore[arg-type]
    assert preprocessing == Preprocessing(
        mean=(0.5, 0.25), std=(1.0, 2.0), resize=8, classes=("cat", "dog")
    )
    assert [type(number) for number in (*preprocessing.mean, *preprocessing.std)] == [float] * 4
    assert type(preprocessing.resize) is int


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": ("a",)}, r"`mean` must be finite numbers, one a channel, got \('a',\)"),
        ({"mean": ()}, r"`mean` must be finite numbers"),
        ({"mean": (float("nan"),)}, r"`mean` must be finite numbers, one a channel, got \(nan,\)"),
        ({"std": (float("inf"),)}, r"`std` must be finite positive numbers"),
        ({"std": (0.0,)}, r"`std` must be finite positive numbers, one a channel, got \(0.0,\)"),
        ({"resize": 8.0}, r"`resize` must be a positive integer, got 8.0"),
        ({"resize": 0}, r"`resize` must be a positive integer, got 0"),
        ({"classes": "abc"}, r"`classes` must be a sequence of texts, or None, got 'abc'"),
        ({"classes": [1]}, r"`classes` must be a sequence of texts, or None, got \[1\]"),
    ],
    ids=str,
)
def test_refused(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"mean": (0.0,), "std": (1.0,), "resize": 8, **change}
    with pytest.raises(ConfigError, match=r"^Preprocessing: " + message):
        Preprocessing(**arguments)
