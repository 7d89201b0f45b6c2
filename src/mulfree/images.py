"""Decoding of image files into arrays. Pillow is imported on first use, torch never."""

from __future__ import annotations

import contextlib
import io
import os
import re
import struct
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from mulfree.errors import ArtifactError, BackendUnavailableError, ConfigError
from mulfree.files import read_regular

if TYPE_CHECKING:
    from PIL.Image import Image

Mode = Literal["L", "RGB"]

MAX_PIXELS = 64 * 2**20
"""Limit on the pixels of an image."""

MAX_BYTES = 2**28
"""Limit on the bytes of an image file."""

MAX_SCANS = 100
"""Limit on the scans of a JPEG file: a progressive one has about ten, and each costs a decoding."""

_JPEG = b"\xff\xd8"
_SCAN = b"\xff\xda"
_END = b"\xd9"

_MARKER = re.compile(rb"\xff+([^\x00\x01\xd0-\xd8\xff])")
"""Start of a JPEG segment; other bytes are pixels or markers without a segment."""

_limit_lock = threading.Lock()

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
_MODES: dict[int, Mode] = {1: "L", 3: "RGB"}
_EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")

_ORIENTATION = 0x0112
"""EXIF tag of the camera's orientation."""

_INTEGERS = {1: "B", 3: "H", 4: "I"}
"""`struct` format of each EXIF integer type."""

_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
"""Pillow's transposition that undoes each orientation, counter-clockwise."""


def read_image(
    path: str | os.PathLike[str],
    shape: tuple[int, int, int],
    resize: int,
    command: str = "run",
) -> NDArray[np.uint8]:
    """Pixels of an image file, resized and cropped for a network, `[C, H, W]`.

    Args:
        path: The file.
        shape: C, H, W of the network's input.
        resize: Length of the shorter side before the centre crop.
        command: Start of error messages.

    Raises:
        ArtifactError: The file cannot be read, is no such image, damaged or too large.
        ConfigError: The network takes neither grey nor colour images.
        BackendUnavailableError: Pillow is not installed.
    """
    channels, height, width = shape
    if channels not in _MODES:
        raise ConfigError(
            f"{command}: `FILE` must be a network of 1 or 3 channels to read images, got {channels}"
        )
    try:
        data = read_regular(Path(path), MAX_BYTES)
    except (OSError, ValueError) as error:  # ValueError: a zero character in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise ArtifactError(
            f"{command}: `IMAGE` must be a readable file, got {os.fspath(path)} ({reason})"
        ) from error
    pixels = decode(data, _MODES[channels], resize, f"{command}: {os.fspath(path)}")
    top, left = (resize - height) // 2, (resize - width) // 2
    return pixels[:, top : top + height, left : left + width]


def decode(data: bytes, mode: Mode, side: int | None, label: str) -> NDArray[np.uint8]:
    """Pixels of an image file: `ImageFile(data, label).decode(mode, side)`."""
    return ImageFile(data, label, MAX_PIXELS).decode(mode, side)


class ImageFile:
    """An image file with its header parsed and its pixels still encoded.

    Args:
        data: Content of a JPEG, PNG, WebP or BMP file.
        label: Start of error messages; names the image.
        max_pixels: Limit on the pixels of the image.

    Attributes:
        held: Bytes of memory until the image is decoded: the file and its unpacked texts.

    Raises:
        ArtifactError: The file is no such image, or the image is too large.
        BackendUnavailableError: Pillow is not installed.
    """

    def __init__(self, data: bytes, label: str, max_pixels: int) -> None:
        try:
            from PIL import Image
        except ImportError as error:
            raise BackendUnavailableError("image files need pillow: pip install pillow") from error
        self._label = label
        self._max_pixels = max_pixels
        if data.startswith(_JPEG) and data.count(_SCAN) > MAX_SCANS and _scans(data) > MAX_SCANS:
            raise ArtifactError(f"{label} must have at most {MAX_SCANS} scans, got {_scans(data)}")
        try:
            # Pillow warns of sizes, checked below, and of metadata, unused here.
            with warnings.catch_warnings(), _any_size():
                warnings.simplefilter("ignore")
                self._opened = Image.open(io.BytesIO(data), formats=_FORMATS)
        except Exception as error:  # Pillow's decoders raise nearly anything on damaged data
            raise self._damaged() from error
        width, height = self._opened.size
        if width * height > max_pixels:
            raise ArtifactError(
                f"{label} must have at most {max_pixels} pixels, got {width} x {height}"
            )
        if width * height == 0:
            raise self._damaged()
        self.held = len(data) + sum(
            4 * len(text) for text in self._opened.info.values() if isinstance(text, str | bytes)
        )

    def largest(self, side: int | None) -> int:
        """Pixels of the largest intermediate image of `decode(mode, side)`.

        Raises:
            ArtifactError: The image is too large when resized.
        """
        width, height = self._opened.size
        if side is None:
            return width * height
        wide, high = _resized(width, height, side)
        if wide * high > self._max_pixels:
            raise ArtifactError(
                f"{self._label} must not be so long and narrow, got {width} x {height}"
            )
        return max(width * height, wide * high)

    def decode(self, mode: Mode, side: int | None) -> NDArray[np.uint8]:
        """Pixels, `[C, H, W]` or `[C, side, side]`. To be called once: the file is then released.

        The EXIF orientation is applied. Channels of 16 bits keep the upper 8, animations the first
        frame; transparency is ignored.

        Args:
            mode: "RGB", or "L" for grey.
            side: Length of the shorter side after bilinear resizing, followed by a square centre
                crop; None keeps the size.

        Raises:
            ArtifactError: The image is damaged, or too large when resized.
        """
        from PIL import Image

        opened = self._opened
        self.largest(side)
        try:
            with opened:
                opened.load()
                # Otherwise Pillow converts the transparent colour too, with warnings.
                opened.info.pop("transparency", None)
                image = _eight_bit(opened, self._label).convert(mode)
                turn = _TURNS.get(_orientation(opened.info.get("exif")))
        except ArtifactError:
            raise
        except Exception as error:
            raise self._damaged() from error
        if turn is not None:
            image = image.transpose(Image.Transpose[turn])
        if side is not None and image.size != (side, side):
            image = image.resize(_resized(*image.size, side), Image.Resampling.BILINEAR)
            left, top = round((image.width - side) / 2), round((image.height - side) / 2)
            image = image.crop((left, top, left + side, top + side))
        pixels = np.atleast_3d(np.asarray(image))
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))

    def _damaged(self) -> ArtifactError:
        return ArtifactError(f"{self._label} must be an intact JPEG, PNG, WebP or BMP image")


@contextlib.contextmanager
def _any_size() -> Iterator[None]:
    """Suspend Pillow's own limit, a global of the process that `max_pixels` replaces."""
    from PIL import Image

    with _limit_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _scans(data: bytes) -> int:
    """Number of scans of a JPEG file; bytes after its end and within its segments do not count."""
    count, start = 0, len(_JPEG)
    while (found := _MARKER.search(data, start)) and found[1] != _END:
        count += found[1] == _SCAN[1:]
        length = int.from_bytes(data[found.end() : found.end() + 2], "big")
        start = found.end() + max(2, length)
    return count


def _eight_bit(image: Image, label: str) -> Image:
    """Reduce an image to 8 bits a channel."""
    if image.mode in _EIGHT_BIT_MODES:
        return image
    # Mode I has 16 bits in PNG alone, 32 in other formats.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        from PIL import Image

        # Pillow does the same with 16 bits of colour.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    raise ArtifactError(f"{label} must have 8 or 16 bits a channel, got Pillow's mode {image.mode}")


def _resized(width: int, height: int, side: int) -> tuple[int, int]:
    """Width and height after resizing the shorter side to `side`."""
    scale = side / min(width, height)
    # max(): a scale rounded down must not make the shorter side too short.
    return max(side, int(width * scale)), max(side, int(height * scale))


def _orientation(exif: object) -> int:
    """Orientation number of an EXIF block; 1, upright, if it is missing or unreadable."""
    if not isinstance(exif, bytes):
        return 1
    block = exif.removeprefix(b"Exif\0\0")
    order = ">" if block.startswith(b"MM") else "<"
    try:
        (start,) = struct.unpack_from(f"{order}I", block, 4)
        (count,) = struct.unpack_from(f"{order}H", block, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", block, entry)
            if tag == _ORIENTATION:
                (value,) = struct.unpack_from(f"{order}{_INTEGERS[kind]}", block, entry + 8)
                return int(value)
    except (struct.error, KeyError):  # damaged, or not an integer
        pass
    return 1
