from __future__ import annotations

import builtins
import io
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.runtime.graphs import tiny_parts

from mulfree.data.decode import decode_rgb
from mulfree.data.transforms import CentreCrop
from mulfree.errors import ArtifactError, BackendUnavailableError, ConfigError
from mulfree.runtime import Graph, pictures
from mulfree.runtime.graph import Lut, Value
from mulfree.runtime.pictures import decode, read_picture


def noise(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(pixels: NDArray[np.uint8], kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def graph_for(channels: int, height: int, width: int, resize: int) -> Graph:
    """A graph that looks at pictures of that size."""
    parts = tiny_parts()
    given = replace(
        parts["input"],
        table=np.zeros((channels, 256), np.uint8),
        mean=(0.5,) * channels,
        std=(0.5,) * channels,
        resize=resize,
    )
    x = Value(name="x", shape=(channels, height, width), scale=0.5, zero=0)
    y = replace(x, name="y")
    table = Lut(name="lut", input="x", output="y", table=given.table)
    elements = channels * height * width
    fc = replace(parts["nodes"][2], input="y", weight=np.zeros((2, elements), np.int8))
    return Graph(name="looking", input=given, values=(x, y), nodes=(table, fc))


@pytest.mark.parametrize("size", [(20, 30), (30, 20), (9, 9), (7, 50), (8, 8), (3, 2)])
def test_as_the_data_sets_do_for_training(size: tuple[int, int], tmp_path: Path) -> None:
    """Resized, cut square and cut again exactly as where the accuracy was measured."""
    import torch

    data = encoded(noise(*size))
    (tmp_path / "x.png").write_bytes(data)
    got = read_picture(tmp_path / "x.png", graph_for(3, 7, 7, 9))
    square = torch.from_numpy(decode_rgb(data, 9, "x"))[None]
    expected = CentreCrop(size=7)(square, torch.empty(1, 0))[0]
    np.testing.assert_array_equal(got, expected.numpy())


def test_a_picture_of_the_right_size_is_untouched(tmp_path: Path) -> None:
    pixels = noise(8, 8)
    (tmp_path / "x.bmp").write_bytes(encoded(pixels, "BMP"))
    got = read_picture(tmp_path / "x.bmp", graph_for(3, 8, 8, 8))
    np.testing.assert_array_equal(got, pixels.transpose(2, 0, 1))
    wide = read_picture(tmp_path / "x.bmp", graph_for(3, 4, 8, 8))
    np.testing.assert_array_equal(wide, pixels[2:6].transpose(2, 0, 1))


def test_grey(tmp_path: Path) -> None:
    pixels = noise(8, 8)
    (tmp_path / "x.png").write_bytes(encoded(pixels))
    got = read_picture(tmp_path / "x.png", graph_for(1, 8, 8, 8))
    expected = np.asarray(Image.fromarray(pixels).convert("L"))
    np.testing.assert_array_equal(got, expected[None])


def test_neither_grey_nor_colour(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"`FILE` must be a network of 1 or 3 channels .*got 2"):
        read_picture(tmp_path / "x.png", graph_for(2, 8, 8, 8))


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(
        ArtifactError,
        match=r"^run: `IMAGE` must be a readable file, got .*/x.png \(No such file or directory\)$",
    ):
        read_picture(tmp_path / "x.png", graph_for(3, 8, 8, 8))


@pytest.mark.parametrize(
    "data", [b"", b"hello", encoded(noise(64, 64))[:1500], encoded(noise(8, 8), "GIF")]
)
def test_not_an_intact_image(data: bytes) -> None:
    with pytest.raises(
        ArtifactError, match=r"^run: x must be an intact JPEG, PNG, WebP or BMP image$"
    ):
        decode(data, "RGB", None, "run: x")


def test_image_bombs(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = encoded(noise(1, 200))
    monkeypatch.setattr(pictures, "MAX_PIXELS", 1000)
    assert decode(narrow, "RGB", None, "x").shape == (3, 1, 200)
    with pytest.raises(ArtifactError, match=r"^x must not be so long and narrow, got 200 x 1$"):
        decode(narrow, "RGB", 10, "x")
    with pytest.raises(ArtifactError, match=r"^x must have at most 1000 pixels, got 40 x 40$"):
        decode(encoded(noise(40, 40)), "RGB", None, "x")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ArtifactError, match=r"^x must have at most 1000 pixels$"):
        decode(narrow, "RGB", None, "x")


def test_without_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    load: Callable[..., Any] = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "PIL":
            raise ImportError(name)
        return load(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    monkeypatch.delitem(sys.modules, "PIL")
    with pytest.raises(BackendUnavailableError, match="image files need pillow: pip install pillo"):
        decode(b"", "RGB", None, "x")
