"""Image files as the arrays that a network was made for. Pillow is imported when it is needed."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mulfree.errors import ArtifactError, BackendUnavailableError, ConfigError
from mulfree.runtime.graph import Graph

Mode = Literal["L", "RGB"]

MAX_PIXELS = 64 * 2**20
"""Pixels that one image may have."""

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
_MODES: dict[int, Mode] = {1: "L", 3: "RGB"}


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
        data = Path(path).read_bytes()
    except OSError as error:
        raise ArtifactError(
            f"run: `IMAGE` must be a readable file, got {os.fspath(path)} ({error.strerror})"
        ) from error
    side = graph.input.resize
    pixels = decode(data, _MODES[channels], side, f"run: {os.fspath(path)}")
    top, left = (side - height) // 2, (side - width) // 2
    return pixels[:, top : top + height, left : left + width]


def decode(data: bytes, mode: Mode, side: int | None, label: str) -> NDArray[np.uint8]:
    """Pixels of an image file, `[C, H, W]`, or `[C, side, side]`.

    Args:
        data: Content of a JPEG, PNG, WebP or BMP file.
        mode: "RGB", or "L" for grey.
        side: Resize the shorter side to this, bilinearly, and cut the middle square; None for the
            image as it is.
        label: Begins an error message and says which image it is.

    Raises:
        ArtifactError: If it is no such image, damaged or too large.
        BackendUnavailableError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise BackendUnavailableError("image files need pillow: pip install pillow") from error
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as opened:
            width, height = opened.size
            if width * height > MAX_PIXELS:
                raise ArtifactError(
                    f"{label} must have at most {MAX_PIXELS} pixels, got {width} x {height}"
                )
            image = opened.convert(mode)
    except ArtifactError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ArtifactError(f"{label} must have at most {MAX_PIXELS} pixels") from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged data
        raise ArtifactError(f"{label} must be an intact JPEG, PNG, WebP or BMP image") from error
    if side is not None and image.size != (side, side):
        scale = side / min(image.size)
        # max(): a scale a rounding below its value must not make the shorter side too short.
        resized = (max(side, int(width * scale)), max(side, int(height * scale)))
        if resized[0] * resized[1] > MAX_PIXELS:
            raise ArtifactError(f"{label} must not be so long and narrow, got {width} x {height}")
        image = image.resize(resized, Image.Resampling.BILINEAR)
        left, top = round((image.width - side) / 2), round((image.height - side) / 2)
        image = image.crop((left, top, left + side, top + side))
    pixels = np.atleast_3d(np.asarray(image))
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))
