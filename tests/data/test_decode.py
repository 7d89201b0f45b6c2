from __future__ import annotations

import io
import os
import struct
import threading
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image
from tests.data.files import pixels, png

from mulfree.data import decode
from mulfree.data.decode import decode_all, decode_rgb
from mulfree.errors import ArtifactError


def encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def huge_png(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims a size."""

    def part(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + part(b"IHDR", header)
        + part(b"IDAT", zlib.compress(bytes(10)))
        + part(b"IEND", b"")
    )


def test_exact_pixels() -> None:
    image = pixels(0)
    np.testing.assert_array_equal(decode_rgb(png(image), None, "x"), image)
    np.testing.assert_array_equal(decode_rgb(png(image), 32, "x"), image)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_other_colour_models_become_rgb(mode: str) -> None:
    image = Image.fromarray(np.ascontiguousarray(pixels(0).transpose(1, 2, 0))).convert(mode)
    expected = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_array_equal(decode_rgb(encoded(image, "PNG"), None, "x"), expected)


@pytest.mark.parametrize("kind", ["JPEG", "BMP", "WEBP"])
def test_formats(kind: str) -> None:
    image = Image.new("RGB", (20, 10), (200, 100, 50))
    got = decode_rgb(encoded(image, kind), None, "x")
    assert got.shape == (3, 10, 20)
    # JPEG and WebP round colours on their way.
    assert np.abs(got.astype(int) - np.array([200, 100, 50]).reshape(3, 1, 1)).max() <= 3


@pytest.mark.parametrize(
    ("size", "resized", "box"),
    [
        ((20, 10), (16, 8), (4, 0, 12, 8)),
        ((10, 20), (8, 16), (0, 4, 8, 12)),
        ((8, 13), (8, 13), (0, 2, 8, 10)),
        ((4, 4), (8, 8), (0, 0, 8, 8)),
    ],
)
def test_resize_then_middle_square(
    size: tuple[int, int], resized: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    expected = image.resize(resized, Image.Resampling.BILINEAR).crop(box)
    got = decode_rgb(encoded(image, "PNG"), 8, "x")
    np.testing.assert_array_equal(got, np.asarray(expected).transpose(2, 0, 1))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        png(pixels(0))[:1500],
        encoded(Image.new("RGB", (64, 64)), "JPEG")[:300],
        encoded(Image.new("RGB", (64, 64)), "GIF"),
    ],
)
def test_not_an_intact_image(data: bytes) -> None:
    with pytest.raises(
        ArtifactError, match=r"^data.load: the file must be an intact JPEG, PNG, WebP or BMP image$"
    ):
        decode_rgb(data, None, "the file")


@pytest.mark.parametrize(
    ("side", "message"),
    [
        (9000, r"x must have at most 67108864 pixels, got 9000 x 9000"),
        (12000, r"x must have at most 67108864 pixels"),
        (100000, r"x must have at most 67108864 pixels"),
    ],
)
def test_image_bomb(side: int, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        decode_rgb(huge_png(side, side), None, "x")


def test_resize_bomb() -> None:
    narrow = encoded(Image.new("RGB", (10000, 1)), "PNG")
    with pytest.raises(ArtifactError, match="must not be so long and narrow, got 10000 x 1"):
        decode_rgb(narrow, 256, "x")


def test_decode_all_keeps_order_and_few_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "_CHUNK", 3)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    asked = 0

    def files() -> Iterator[tuple[int, bytes, str]]:
        nonlocal asked
        for number in range(50):
            asked += 1
            yield number, png(pixels(number, 4)), "x"

    got = []
    for chunk, (numbers, images) in enumerate(decode_all(files(), None), start=1):
        got += list(zip(numbers, images, strict=True))
        assert asked <= 3 * (chunk + 4)
    assert [number for number, _ in got] == list(range(50))
    for number, image in got:
        np.testing.assert_array_equal(image, pixels(number, 4))


def test_decode_all_stops_its_threads_on_an_error() -> None:
    before = threading.active_count()
    with pytest.raises(ArtifactError, match="number 7"):
        for _ in decode_all(((n, b"", "number 7") for n in range(1000)), None):
            pass
    assert threading.active_count() == before
