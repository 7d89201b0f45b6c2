from __future__ import annotations

import builtins
import io
import os
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from mulfree import images
from mulfree.data.containers.bounds import Bounds
from mulfree.data.decode import decode_all
from mulfree.data.transforms import CentreCrop
from mulfree.errors import ArtifactError, BackendUnavailableError, ConfigError
from mulfree.images import ImageFile, decode, read_image


def noise(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(pixels: NDArray[Any], kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("size", [(20, 30), (30, 20), (9, 9), (7, 50), (8, 8), (3, 2)])
def test_as_the_data_sets_do_for_training(size: tuple[int, int], tmp_path: Path) -> None:
    """Resized, cut square and cut again exactly as where the accuracy was measured."""
    import torch

    data = encoded(noise(*size))
    (tmp_path / "x.png").write_bytes(data)
    got = read_image(tmp_path / "x.png", (3, 7, 7), 9)
    ((_, (pixels,)),) = decode_all([(0, data, "x")], 9, Bounds(), 2**20)
    square = torch.from_numpy(pixels)[None]
    expected = CentreCrop(size=7)(square, torch.empty(1, 0))[0]
    np.testing.assert_array_equal(got, expected.numpy())


def test_an_image_of_the_right_size_is_untouched(tmp_path: Path) -> None:
    pixels = noise(8, 8)
    (tmp_path / "x.bmp").write_bytes(encoded(pixels, "BMP"))
    got = read_image(tmp_path / "x.bmp", (3, 8, 8), 8)
    np.testing.assert_array_equal(got, pixels.transpose(2, 0, 1))
    wide = read_image(tmp_path / "x.bmp", (3, 4, 8), 8)
    np.testing.assert_array_equal(wide, pixels[2:6].transpose(2, 0, 1))


def test_grey(tmp_path: Path) -> None:
    pixels = noise(8, 8)
    (tmp_path / "x.png").write_bytes(encoded(pixels))
    got = read_image(tmp_path / "x.png", (1, 8, 8), 8)
    expected = np.asarray(Image.fromarray(pixels).convert("L"))
    np.testing.assert_array_equal(got, expected[None])


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
    pixels = noise(*size[::-1])
    expected = Image.fromarray(pixels).resize(resized, Image.Resampling.BILINEAR).crop(box)
    got = decode(encoded(pixels), "RGB", 8, "x")
    np.testing.assert_array_equal(got, np.asarray(expected).transpose(2, 0, 1))


def test_neither_grey_nor_colour(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"`FILE` must be a network of 1 or 3 channels .*got 2"):
        read_image(tmp_path / "x.png", (2, 8, 8), 8)


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"hello", encoded(noise(64, 64))[:1500], encoded(noise(8, 8), "GIF")),
        encoded(noise(64, 64), "JPEG")[:300],
    ],
)
def test_not_an_intact_image(data: bytes) -> None:
    with pytest.raises(
        ArtifactError, match=r"^run: x must be an intact JPEG, PNG, WebP or BMP image$"
    ):
        decode(data, "RGB", None, "run: x")


def test_image_bombs(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = encoded(noise(1, 200))
    monkeypatch.setattr(images, "MAX_PIXELS", 1000)
    assert decode(narrow, "RGB", None, "x").shape == (3, 1, 200)
    with pytest.raises(ArtifactError, match=r"^x must not be so long and narrow, got 200 x 1$"):
        decode(narrow, "RGB", 10, "x")
    with pytest.raises(ArtifactError, match=r"^x must have at most 1000 pixels, got 40 x 40$"):
        decode(encoded(noise(40, 40)), "RGB", None, "x")
    # Pillow's own limit is for others.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    assert decode(narrow, "RGB", None, "x").shape == (3, 1, 200)
    assert Image.MAX_IMAGE_PIXELS == 50


def progressive(scans: int, thumbnail: bytes = b"") -> bytes:
    """A JPEG file that repeats one of its scans, of few bytes, until there are that many."""
    buffer = io.BytesIO()
    exif = Image.Exif().tobytes() + thumbnail
    grey = Image.new("L", (32, 32), 128)
    grey.save(buffer, "JPEG", progressive=True, exif=exif)
    scan = b"\xff\xda"
    head, scan_of_dc, scan_of_ac, *_ = buffer.getvalue().rsplit(scan, 6)
    return scan.join([head, scan_of_dc, *[scan_of_ac] * (scans - 1)]) + b"\xff\xd9"


def test_jpeg_files_of_many_scans() -> None:
    assert (decode(progressive(100), "L", None, "x") == 128).all()
    with pytest.raises(ArtifactError, match=r"^x must have at most 100 scans, got 101$"):
        decode(progressive(101), "L", None, "x")


def test_only_scans_of_the_image_count() -> None:
    # A phone keeps a small copy in the metadata, and a film behind the image.
    other = b"\xff\xda" * 200
    assert (decode(progressive(10, other) + other, "L", None, "x") == 128).all()


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


def test_sixteen_bits_of_grey_keep_the_upper_eight() -> None:
    ramp = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    grey = encoded(ramp)
    got = decode(grey, "L", None, "x")
    np.testing.assert_array_equal(got[0], ramp >> 8)
    assert got.mean() == 127.5
    np.testing.assert_array_equal(decode(grey, "RGB", None, "x"), np.repeat(got, 3, axis=0))


@pytest.mark.parametrize("order", ["I;16", "I;16B"])
def test_sixteen_bits_in_either_order(order: str) -> None:
    image = Image.new(order, (3, 2), 0x7FFF)
    assert set(np.asarray(images._eight_bit(image, "x")).flat) == {127}


def test_sixteen_bits_of_colour_keep_the_upper_eight() -> None:
    rows = np.array([[0, 0x7FFF, 0xFFFF, 0x0100, 0x00FF, 0x80FF]], ">u2")
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    got = decode(png_of(header, b"\0" + rows.tobytes()), "RGB", None, "x")
    assert got[:, 0].T.tolist() == [[0, 127, 255], [1, 0, 128]]


def png_of(header: bytes, rows: bytes, *more: tuple[bytes, bytes]) -> bytes:
    """A PNG file of a header, filtered rows and other chunks before them."""
    chunks = [(b"IHDR", header), *more, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


@pytest.mark.parametrize("mode", ["F", "I"])
def test_deeper_images_are_refused(mode: str) -> None:
    with pytest.raises(
        ArtifactError, match=rf"^x must have 8 or 16 bits a channel, got Pillow's mode {mode}$"
    ):
        images._eight_bit(Image.new(mode, (2, 2)), "x")
    buffer = io.BytesIO()
    Image.new(mode, (2, 2)).save(buffer, "TIFF")
    with pytest.raises(ArtifactError, match="must be an intact JPEG"):
        decode(buffer.getvalue(), "L", None, "x")


RED, GREEN = [200, 10, 20], [30, 180, 40]


@pytest.mark.parametrize("transparency", [None, 0, b"\x80\x00"])
def test_transparency_is_ignored_in_palettes(transparency: int | bytes | None) -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8))
    image.putpalette(RED + GREEN)
    options = {} if transparency is None else {"transparency": transparency}
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    file = buffer.getvalue()
    assert decode(file, "RGB", None, "x")[:, 0].T.tolist() == [RED, GREEN]
    grey = Image.fromarray(np.array([[RED, GREEN]], np.uint8)).convert("L")
    np.testing.assert_array_equal(decode(file, "L", None, "x")[0], np.asarray(grey))


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparency_is_ignored(kind: str) -> None:
    pixels = np.array([[[*RED, 0], [*GREEN, 128]]], np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, lossless=True, exact=True)
    assert decode(buffer.getvalue(), "RGB", None, "x")[:, 0].T.tolist() == [RED, GREEN]


def test_grey_with_transparency() -> None:
    pixels = np.array([[[7, 0], [200, 255]]], np.uint8)
    assert decode(encoded(pixels), "L", None, "x").tolist() == [[[7, 200]]]
    header = struct.pack(">IIBBBBB", 2, 1, 8, 0, 0, 0, 0)
    clear = png_of(header, bytes([0, 7, 200]), (b"tRNS", b"\0\x07"))
    assert decode(clear, "RGB", None, "x").tolist() == [[[7, 200]]] * 3


def test_a_transparent_colour() -> None:
    header = struct.pack(">IIBBBBB", 2, 1, 8, 2, 0, 0, 0)
    clear = png_of(header, bytes([0, *RED, *GREEN]), (b"tRNS", struct.pack(">HHH", *RED)))
    assert decode(clear, "RGB", None, "x")[:, 0].T.tolist() == [RED, GREEN]
    assert decode(clear, "L", None, "x").shape == (1, 1, 2)


def test_black_and_white() -> None:
    header = struct.pack(">IIBBBBB", 3, 1, 1, 0, 0, 0, 0)
    assert decode(png_of(header, b"\0\xa0"), "L", None, "x").tolist() == [[[255, 0, 255]]]


def test_cmyk_as_adobe_writes_it() -> None:
    buffer = io.BytesIO()
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(buffer, "JPEG", quality=95)
    red = decode(buffer.getvalue(), "RGB", None, "x")[:, 4, 4]
    assert np.abs(red.astype(int) - [255, 0, 0]).max() <= 3


def turned(kind: str, value: int, pixels: NDArray[np.uint8]) -> bytes:
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    exif[0x0112] = value
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, exif=exif, lossless=True)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize("value", range(10))
def test_exif_orientation(kind: str, value: int) -> None:
    file = turned(kind, value, noise(10, 24))
    opened = Image.open(io.BytesIO(file))
    expected = ImageOps.exif_transpose(opened).convert("RGB")
    assert (expected.height > expected.width) == (value in (5, 6, 7, 8))
    np.testing.assert_array_equal(
        decode(file, "RGB", None, "x"), np.asarray(expected).transpose(2, 0, 1)
    )
    # Turned before it is resized and cut, whose roundings have a direction.
    np.testing.assert_array_equal(
        decode(file, "RGB", 7, "x"), decode(encoded(np.asarray(expected)), "RGB", 7, "x")
    )


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("kind", "code"), [(1, "B"), (3, "H"), (4, "I")])
def test_exif_in_either_order(order: str, kind: int, code: str) -> None:
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, 1)
    entry = struct.pack(f"{order}HHI", 0x0112, kind, 1)
    block = head + entry + struct.pack(f"{order}{code}", 6).ljust(4, b"\0")
    assert images._orientation(block) == 6
    assert images._orientation(b"Exif\0\0" + block) == 6
    for cut in range(len(block) - 4):
        assert images._orientation(block[:cut]) == 1


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"Exif\0\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 40,
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x05\0\xff\xff\xff\xff\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x1a\x01\x05\0\xff\xff\xff\xff\xff\xff\xff\xff",
        b"Exif\0\0rubbish" * 100,
    ],
)
def test_damaged_exif_changes_nothing(exif: bytes) -> None:
    pixels = noise(4, 9)
    for kind in ("PNG", "WEBP", "JPEG"):
        plain, marked = io.BytesIO(), io.BytesIO()
        Image.fromarray(pixels).save(plain, kind)
        Image.fromarray(pixels).save(marked, kind, exif=exif)
        np.testing.assert_array_equal(
            decode(marked.getvalue(), "RGB", None, "x"), decode(plain.getvalue(), "RGB", None, "x")
        )


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_the_first_frame_of_an_animation(kind: str) -> None:
    first, second = noise(6, 5), 255 - noise(6, 5)
    buffer = io.BytesIO()
    Image.fromarray(first).save(
        buffer, kind, save_all=True, append_images=[Image.fromarray(second)], lossless=True
    )
    got = decode(buffer.getvalue(), "RGB", None, "x")
    np.testing.assert_array_equal(got, first.transpose(2, 0, 1))


@pytest.mark.parametrize(("width", "height"), [(0, 3), (3, 0), (0, 0)])
def test_images_without_pixels(width: int, height: int) -> None:
    empty = png_of(struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"")
    with pytest.raises(ArtifactError, match=r"^x must be an intact JPEG"):
        decode(empty, "RGB", 4, "x")


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_a_size_that_was_changed(kind: str) -> None:
    data = bytearray(encoded(noise(8, 8), kind))
    data[{"PNG": 19, "BMP": 18}[kind]] = 9  # the width
    with pytest.raises(ArtifactError, match=r"^x must be an intact JPEG"):
        decode(bytes(data), "RGB", None, "x")


def test_memory_of_an_image_file() -> None:
    data = encoded(noise(10, 30))
    file = ImageFile(data, "x", 10**6)
    assert file.held == len(data)
    assert (file.largest(None), file.largest(5), file.largest(20)) == (300, 300, 1200)
    text = (b"zTXt", b"a\0\0" + zlib.compress(bytes(50000)))
    packed = png_of(struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0), bytes(2), text)
    assert ImageFile(packed, "x", 10**6).held == len(packed) + 200000


def test_only_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    for name, reason in (
        ("pipe", "Not a regular file"),
        ("link", "Not a regular file"),
        (".", "Is a directory"),
        ("x.png", "No such file or directory"),
        ("\0", "embedded null byte"),
    ):
        with pytest.raises(ArtifactError, match=rf"^run: `IMAGE` must be .* \({reason}\)$"):
            read_image(tmp_path / name, (3, 8, 8), 8)


def test_files_of_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_BYTES", 50)
    (tmp_path / "x.png").write_bytes(encoded(noise(8, 8)))
    with pytest.raises(ArtifactError, match=r"`IMAGE` must be .* \(Larger than 50 bytes\)$"):
        read_image(tmp_path / "x.png", (3, 8, 8), 8)
