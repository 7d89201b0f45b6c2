"""Decodes image files into uint8 arrays, in threads: Pillow releases the interpreter meanwhile."""

from __future__ import annotations

import io
import os
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mulfree.errors import ArtifactError

MAX_PIXELS = 64 * 2**20
"""Pixels that one image may have."""

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
_CHUNK = 128

Item = TypeVar("Item")


def decode_rgb(data: bytes, side: int | None, label: str) -> NDArray[np.uint8]:
    """Pixels of an image file, `[3, H, W]`.

    Args:
        data: Content of a JPEG, PNG, WebP or BMP file.
        side: Resize the shorter side to this, bilinearly, and cut the middle square; None for the
            image as it is.
        label: Says in an error message which image it is.

    Raises:
        ArtifactError: If it is no such image, damaged or too large.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ArtifactError(
                    f"data.load: {label} must have at most {MAX_PIXELS} pixels, "
                    f"got {width} x {height}"
                )
            rgb = image.convert("RGB")
    except ArtifactError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ArtifactError(f"data.load: {label} must have at most {MAX_PIXELS} pixels") from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged data
        raise ArtifactError(
            f"data.load: {label} must be an intact JPEG, PNG, WebP or BMP image"
        ) from error
    if side is not None and rgb.size != (side, side):
        scale = side / min(rgb.size)
        # max(): a scale a rounding below its value must not make the shorter side too short.
        resized = (max(side, int(width * scale)), max(side, int(height * scale)))
        if resized[0] * resized[1] > MAX_PIXELS:
            raise ArtifactError(
                f"data.load: {label} must not be so long and narrow, got {width} x {height}"
            )
        rgb = rgb.resize(resized, Image.Resampling.BILINEAR)
        left, top = round((rgb.width - side) / 2), round((rgb.height - side) / 2)
        rgb = rgb.crop((left, top, left + side, top + side))
    return np.ascontiguousarray(np.asarray(rgb).transpose(2, 0, 1))


def decode_all(
    files: Iterable[tuple[Item, bytes, str]], side: int | None
) -> Generator[tuple[list[Item], list[NDArray[np.uint8]]]]:
    """Decode many files, in order, a chunk at a time.

    Args:
        files: What to hand back with the pixels, content and label of each file.
        side: As in `decode_rgb`.
    """

    def work(
        chunk: list[tuple[Item, bytes, str]],
    ) -> tuple[list[Item], list[NDArray[np.uint8]]]:
        pixels = [decode_rgb(data, side, label) for _, data, label in chunk]
        return [item for item, _, _ in chunk], pixels

    threads = min(8, os.cpu_count() or 1)
    source = iter(files)
    waiting: deque[Future[tuple[list[Item], list[NDArray[np.uint8]]]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        try:
            while chunk := list(islice(source, _CHUNK)):
                waiting.append(pool.submit(work, chunk))
                # Few chunks in flight: their files and pixels are in memory.
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
