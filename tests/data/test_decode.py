from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from tests.data.files import pixels, png

from mulfree.data import decode
from mulfree.data.containers.bounds import Bounds
from mulfree.data.decode import decode_all
from mulfree.errors import ArtifactError

MANY = 2**40


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
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


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
