from __future__ import annotations

import io
import os
import struct
import threading
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin
from tests.data.files import pixels, png

from mulfree.data import decode
from mulfree.data.containers.bounds import Bounds
from mulfree.data.decode import decode_all
from mulfree.errors import ArtifactError

MANY = 2**40


def rgb(data: bytes, side: int | None, label: str) -> NDArray[np.uint8]:
    """One image, `[3, H, W]`."""
    ((_, (image,)),) = decode_all([(0, data, label)], side, Bounds(), MANY)
    return image


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
    np.testing.assert_array_equal(rgb(png(image), None, "x"), image)
    np.testing.assert_array_equal(rgb(png(image), 32, "x"), image)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_other_colour_models_become_rgb(mode: str) -> None:
    image = Image.fromarray(np.ascontiguousarray(pixels(0).transpose(1, 2, 0))).convert(mode)
    expected = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_array_equal(rgb(encoded(image, "PNG"), None, "x"), expected)


@pytest.mark.parametrize("kind", ["JPEG", "BMP", "WEBP"])
def test_formats(kind: str) -> None:
    image = Image.new("RGB", (20, 10), (200, 100, 50))
    got = rgb(encoded(image, kind), None, "x")
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
    got = rgb(encoded(image, "PNG"), 8, "x")
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
        rgb(data, None, "the file")


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
        rgb(huge_png(side, side), None, "x")


def test_resize_bomb() -> None:
    narrow = encoded(Image.new("RGB", (10000, 1)), "PNG")
    with pytest.raises(ArtifactError, match="must not be so long and narrow, got 10000 x 1"):
        rgb(narrow, 256, "x")


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
    for chunk, (numbers, images) in enumerate(decode_all(files(), None, Bounds(), MANY), start=1):
        got += list(zip(numbers, images, strict=True))
        assert asked <= 3 * (chunk + 4)
    assert [number for number, _ in got] == list(range(50))
    for number, image in got:
        np.testing.assert_array_equal(image, pixels(number, 4))


def test_decode_all_stops_its_threads_on_an_error() -> None:
    before = threading.active_count()
    with pytest.raises(ArtifactError, match="number 7"):
        for _ in decode_all(((n, b"", "number 7") for n in range(1000)), None, Bounds(), MANY):
            pass
    assert threading.active_count() == before


def of_size(width: int, height: int) -> bytes:
    return encoded(Image.new("1", (width, height)), "PNG")


class Meter:
    """Counts the images that are handed out and not yet decoded and taken."""

    def __init__(self, images: list[bytes]) -> None:
        self.images = images
        self.given = self.taken = self.most = 0

    def files(self) -> Iterator[tuple[int, bytes, str]]:
        for number, data in enumerate(self.images):
            self.given += 1
            self.most = max(self.most, self.given - self.taken)
            yield number, data, "x"

    def run(self, side: int | None, bounds: Bounds) -> list[int]:
        """Sizes of the chunks."""
        sizes = []
        for items, images in decode_all(self.files(), side, bounds, MANY):
            assert items == list(range(self.taken, self.taken + len(images)))
            self.taken += len(images)
            sizes.append(len(images))
        return sizes


def test_large_images_are_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    # 10,000 pixels: 30 kB that are kept, 120 kB in the making.
    large = Meter([of_size(100, 100)] * 40)
    assert large.run(None, Bounds(max_decoding_bytes=500_000)) == [1] * 40
    assert large.most <= 4 + 1
    # Resized they are kept small: the 9 shares are of one image in the making and 5 others.
    small = Meter([of_size(100, 100)] * 40)
    kept = len(of_size(100, 100)) + 3 * 8 * 8
    sizes = small.run(8, Bounds(max_decoding_bytes=9 * (120_000 + 5 * kept)))
    assert set(sizes[:-1]) == {5}
    assert small.most <= 45 + 1


def test_an_image_larger_than_the_memory_is_decoded_alone() -> None:
    alone = Meter([of_size(100, 100)] * 5)
    assert alone.run(None, Bounds(max_decoding_bytes=1000)) == [1] * 5
    # The one taken, the one decoded next, and the one behind it that ends its chunk.
    assert alone.most == 3


def test_small_images_after_a_large_one_and_before_it() -> None:
    mixed = Meter([of_size(4, 4)] * 3 + [of_size(300, 300)] + [of_size(4, 4)] * 3)
    assert mixed.run(None, Bounds(max_decoding_bytes=10**6)) == [3, 1, 3]


def test_texts_that_a_file_unpacks_to_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    text = PngImagePlugin.PngInfo()
    text.add_text("a", "b" * 50_000, zip=True)
    buffer = io.BytesIO()
    Image.new("L", (2, 2)).save(buffer, "PNG", pnginfo=text)
    assert Meter([buffer.getvalue()] * 6).run(None, Bounds(max_decoding_bytes=1_500_000)) == [2] * 3


def test_pixels_of_an_image_are_an_option() -> None:
    files = [(0, of_size(11, 10), "number 0")]
    with pytest.raises(ArtifactError, match=r"^data.load: number 0 must have at most 100 pixels, "):
        next(decode_all(files, None, Bounds(max_image_pixels=100), MANY))
    assert len(list(decode_all(files, None, Bounds(max_image_pixels=110), MANY))) == 1


@pytest.mark.parametrize(("side", "total"), [(None, 2 * 300), (5, 2 * 300), (20, 2 * 1200)])
def test_all_images_together(side: int | None, total: int) -> None:
    files = [(0, of_size(10, 10), f"number {number}") for number in range(3)]
    assert sum(len(images) for _, images in decode_all(files[:2], side, Bounds(), total)) == 2
    with pytest.raises(
        ArtifactError,
        match=rf"^data.load: number 2 must not be decoded to more than {total} bytes with the "
        rf"images before it, got {total * 3 // 2} \(a guard .*; raise `max_expansion`\)$",
    ):
        list(decode_all(files, side, Bounds(), total))
