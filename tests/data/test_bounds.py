from __future__ import annotations

from typing import Any

import pytest

from mulfree.data.bounds import Bounds
from mulfree.errors import ConfigError


def test_small_files_may_decode_to_a_fixed_size_and_large_ones_to_a_multiple() -> None:
    bounds = Bounds(expansion=10, floor_bytes=1000)
    assert [bounds.decoded_bytes(size) for size in (0, 99, 100, 101)] == [1000, 1000, 1000, 1010]


def test_imagenet_is_within_the_defaults() -> None:
    bounds = Bounds()
    images, file_bytes, side = 1_331_167, 110_000, 256
    assert bounds.decoded_bytes(images * file_bytes) > 100 * images * 3 * side**2
    assert bounds.image_pixels > 2 * 26_000_000
    assert bounds.memory_bytes > 15 * 64_000_000


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "1", None, 2**62])
@pytest.mark.parametrize("name", ["image_pixels", "memory_bytes", "expansion", "free_bytes"])
def test_rejects(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^Bounds: `{name}` must be a positive integer, got "):
        Bounds(**{name: value})
