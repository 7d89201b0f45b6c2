"""Decodes image files into uint8 arrays, in threads: Pillow releases the interpreter meanwhile."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mulfree.runtime.pictures import decode

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
    return decode(data, "RGB", side, f"data.load: {label}")


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
