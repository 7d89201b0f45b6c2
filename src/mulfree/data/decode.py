"""Multi-threaded decoding of image files into uint8 arrays: Pillow releases the GIL."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from mulfree.data.containers.bounds import Bounds
from mulfree.errors import ArtifactError
from mulfree.images import ImageFile

_CHUNK = 128

_PEAK_BYTES = 12
"""Peak bytes per pixel while an image is decoded, converted, rotated and resized."""

Item = TypeVar("Item")


@dataclass
class _Chunk(Generic[Item]):
    """Images decoded by one thread, one after the other.

    Attributes:
        items: The caller's item of each image.
        files: Removed one by one as they are decoded.
        kept: Bytes of the files and of their pixels.
        peak: Further bytes while the largest image is decoded.
    """

    items: list[Item] = field(default_factory=list)
    files: deque[ImageFile] = field(default_factory=deque)
    kept: int = 0
    peak: int = 0

    @property
    def cost(self) -> int:
        return self.kept + self.peak

    def decoded(self, side: int | None) -> tuple[list[Item], list[NDArray[np.uint8]]]:
        pixels = []
        while self.files:
            pixels.append(self.files.popleft().decode("RGB", side))
        return self.items, pixels


def decode_all(
    files: Iterable[tuple[Item, bytes, str]], side: int | None, bounds: Bounds, total: int
) -> Generator[tuple[list[Item], list[NDArray[np.uint8]]]]:
    """Decode many files into arrays `[3, H, W]`, in order, a chunk at a time.

    Args:
        files: Item to return with the pixels, content and label of each file.
        side: Length of the shorter side after bilinear resizing, followed by a square centre crop;
            None keeps the size.
        bounds: Limits on one image and on the memory in use; an image above the latter is decoded
            alone.
        total: Limit on the decoded bytes of all images.

    Raises:
        ArtifactError: A file is not an image, damaged or too large.
    """
    threads = min(8, os.cpu_count() or 1)
    share = bounds.max_decoding_bytes // (2 * threads + 1)
    waiting: deque[tuple[int, Future[tuple[list[Item], list[NDArray[np.uint8]]]]]] = deque()
    memory = 0
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        try:
            for chunk in _chunks(files, side, bounds.max_image_pixels, share, total):
                cost = chunk.cost
                while waiting and (
                    len(waiting) >= 2 * threads or memory + cost > bounds.max_decoding_bytes
                ):
                    yield waiting[0][1].result()
                    memory -= waiting.popleft()[0]
                memory += cost
                waiting.append((cost, pool.submit(chunk.decoded, side)))
            while waiting:
                yield waiting.popleft()[1].result()
        finally:
            for _, future in waiting:
                future.cancel()


def _chunks(
    files: Iterable[tuple[Item, bytes, str]],
    side: int | None,
    max_pixels: int,
    share: int,
    total: int,
) -> Iterator[_Chunk[Item]]:
    """Group the files into chunks of at most `share` bytes; a larger file is a chunk of its own."""
    chunk: _Chunk[Item] = _Chunk()
    decoded = 0
    for item, data, label in files:
        file = ImageFile(data, f"data.load: {label}", max_pixels)
        largest = file.largest(side)
        decoded += 3 * largest
        if decoded > total:
            raise ArtifactError(
                f"data.load: {label} must not be decoded to more than {total} bytes with "
                f"the images before it, got {decoded} (a guard against decompression bombs; raise "
                "`max_expansion`)"
            )
        kept = file.held + 3 * (largest if side is None else side**2)
        own = _PEAK_BYTES * largest
        peak = max(chunk.peak, own)
        if chunk.items and chunk.kept + kept + peak > share:
            yield chunk
            chunk, peak = _Chunk(), own
        chunk.items.append(item)
        chunk.files.append(file)
        chunk.kept += kept
        chunk.peak = peak
        if len(chunk.items) == _CHUNK:
            yield chunk
            chunk = _Chunk()
    if chunk.items:
        yield chunk
