from __future__ import annotations

from typing import Any

import pytest

from mulfree.data import DataConfig
from mulfree.data.containers.bounds import Bounds
from mulfree.errors import ConfigError


def test_small_files_may_decode_to_a_fixed_size_and_large_ones_to_a_multiple() -> None:
    bounds = Bounds(max_expansion=2**20)
    assert [bounds.decoded_bytes(size) for size in (0, 256, 257)] == [2**28, 2**28, 2**28 + 2**20]


def test_imagenet_is_within_the_defaults() -> None:
    bounds = Bounds()
    images, file_bytes, side = 1_331_167, 110_000, 256
    assert bounds.decoded_bytes(images * file_bytes) > 100 * images * 3 * side**2
    assert bounds.max_image_pixels > 2 * 26_000_000
    assert bounds.max_decoding_bytes > 15 * 64_000_000


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "1", None, 2**62])
@pytest.mark.parametrize(
    "name", ["max_image_pixels", "max_decoding_bytes", "max_expansion", "min_free_bytes"]
)
def test_rejects(name: str, value: Any) -> None:
    with pytest.raises(
        ConfigError, match=rf"^Bounds: `{name}` must be a positive integer below 2\^62, got "
    ):
        Bounds(**{name: value})


def test_a_configuration_of_data_has_the_bounds() -> None:
    assert DataConfig(max_expansion=3).max_expansion == 3
    with pytest.raises(ConfigError, match=r"^DataConfig: `max_expansion` must be a positive integ"):
        DataConfig(max_expansion=0)
