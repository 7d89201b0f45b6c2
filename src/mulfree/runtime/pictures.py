"""Image files as the arrays that a network was made for. Pillow is imported when it is needed."""

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
from mulfree.runtime.graph import Graph

if TYPE_CHECKING:
    from PIL.Image import Image

Mode = Literal["L", "RGB"]

MAX_PIXELS = 64 * 2**20
"""Pixels that one image may have."""

MAX_BYTES = 2**28
"""Bytes that the file of one image may have."""

MAX_SCANS = 100
"""Scans of one JPEG file: a progressive one has about ten, and each takes as long as the image."""

_JPEG = b"\xff\xd8"
_SCAN = b"\xff\xda"
_END = b"\xd9"

_MARKER = re.compile(rb"\xff+([^\x00\x01\xd0-\xd8\xff])")
"""Start of a segment of a JPEG file; other bytes are pixels or markers without a segment."""

_limit_lock = threading.Lock()

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
_MODES: dict[int, Mode] = {1: "L", 3: "RGB"}
_EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")

_ORIENTATION = 0x0112
"""EXIF's tag for how the camera was held."""

_INTEGERS = {1: "B", 3: "H", 4: "I"}
"""Layout of EXIF's types of integers."""

_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
"""Pillow's names of what undoes each orientation, counter-clockwise."""


def read_picture(path: str | os.PathLike[str], graph: Graph) -> NDArray[np.uint8]:
    """Pixels of an image file, cut as the graph's `Input` says, `[C, H, W]`.

    Raises:
        ArtifactError: It cannot be read, is no such image, damaged or too large.
        ConfigError: The network takes neither grey nor colour images.
        BackendUnavailableError: Pillow is not installed.
    """
    channels, height, width = graph.input_value.shape
    if channels not in _MODES:
        raise ConfigError(
            f"run: `FILE` must be a network of 1 or 3 channels to see pictures, got {channels}"
        )
    try:
        data = read_regular(Path(path), MAX_BYTES)
    except (OSError, ValueError) as error:  # ValueError: a zero character in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise ArtifactError(
            f"run: `IMAGE` must be a readable file, got {os.fspath(path)} ({reason})"
        ) from error
    side = graph.input.resize
    pixels = decode(data, _MODES[channels], side, f"run: {os.fspath(path)}")
    top, left = (side - height) // 2, (side - width) // 2
    return pixels[:, top : top + height, left : left + width]


def decode(data: bytes, mode: Mode, side: int | None, label: str) -> NDArray[np.uint8]:
    """Pixels of an image file: `Picture(data, label).decode(mode, side)`."""
    return Picture(data, label, MAX_PIXELS).decode(mode, side)


class Picture:
    """An image file whose header is read and whose pixels are not.

    Args:
        data: Content of a JPEG, PNG, WebP or BMP file.
        label: Begins an error message and says which image it is.
        max_pixels: Pixels that the image may have.

    Attributes:
        held: Bytes of memory until the image is decoded: the file, and texts unpacked from it.

    Raises:
        ArtifactError: If it is no such image or too large.
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
            # Pillow warns of sizes, which are checked here, and of metadata, which are not used.
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
        """Pixels of the largest image on the way to `decode(mode, side)`.

        Raises:
            ArtifactError: If it is too large when resized.
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
        """Pixels, `[C, H, W]`, or `[C, side, side]`; once only, as they are not kept.

        The image is turned as its EXIF orientation says. Of 16 bits a channel the upper 8 are
        taken, of an animation the first picture; transparency is ignored.

        Args:
            mode: "RGB", or "L" for grey.
            side: Resize the shorter side to this, bilinearly, and cut the middle square; None for
                the image as it is.

        Raises:
            ArtifactError: If it is damaged, or too large when resized.
        """
        from PIL import Image

        opened = self._opened
        self.largest(side)
        try:
            with opened:
                opened.load()
                # A transparent colour would be converted too, with warnings about that.
                opened.info.pop("transparency", None)
                image = _shallow(opened, self._label).convert(mode)
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
    """Suspends Pillow's own limit, which is one for the whole process and no option here."""
    from PIL import Image

    with _limit_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _scans(data: bytes) -> int:
    """Scans of a JPEG file; bytes behind its end and within its segments are none."""
    count, start = 0, len(_JPEG)
    while (found := _MARKER.search(data, start)) and found[1] != _END:
        count += found[1] == _SCAN[1:]
        length = int.from_bytes(data[found.end() : found.end() + 2], "big")
        start = found.end() + max(2, length)
    return count


def _shallow(image: Image, label: str) -> Image:
    """The image with 8 bits a channel."""
    if image.mode in _EIGHT_BITS:
        return image
    # Other formats than PNG have 32 bits in mode I.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        from PIL import Image

        # As Pillow does with 16 bits of colour.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    raise ArtifactError(f"{label} must have 8 or 16 bits a channel, got Pillow's mode {image.mode}")


def _resized(width: int, height: int, side: int) -> tuple[int, int]:
    """The size when the shorter side is `side`."""
    scale = side / min(width, height)
    # max(): a scale a rounding below its value must not make the shorter side too short.
    return max(side, int(width * scale)), max(side, int(height * scale))


def _orientation(exif: object) -> int:
    """Number of the orientation in a block of EXIF; 1, upright, where there is none to be read."""
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
    except (struct.error, KeyError):  # damaged, or no number
        pass
    return 1
