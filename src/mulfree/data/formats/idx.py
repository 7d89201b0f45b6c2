"""idx files, the format of MNIST and its successors, plain or compressed with gzip."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mulfree.errors import ArtifactError
from mulfree.files import open_regular

MAX_BYTES = 2**30
"""Limit on the elements of an idx file; Fashion-MNIST has 47 million."""

MAX_EXPANSION = 200
"""Limit on the elements as a multiple of the size of the file, if above MIN_EXPANDED."""

MIN_EXPANDED = 2**26


def read_idx(path: Path, rank: int) -> Tensor:
    """Read the uint8 array of `rank` dimensions in an idx file.

    Big-endian header: 0, 0, type (8 for uint8), rank, then `rank` sizes of 32 bits each. The
    header is checked before memory for the elements is allocated.

    Raises:
        ArtifactError: The file is not such an array, or its length differs from its header.
    """
    with open_regular(path) as file:
        compressed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if not compressed:
            return _parse(file.read, path, rank)
        try:
            with gzip.GzipFile(fileobj=file) as inner:
                return _parse(inner.read, path, rank)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ArtifactError(f"data.load: {path} is damaged or incomplete: {error}") from error


def _parse(read: Callable[[int], bytes], path: Path, rank: int) -> Tensor:
    expected = bytes((0, 0, 8, rank))
    magic = read(4)
    if magic != expected:
        raise ArtifactError(
            f"data.load: {path} must start with the idx magic number 0x{expected.hex()} (uint8, "
            f"{rank} dimensions), got 0x{magic.hex()}"
        )
    sizes = read(4 * rank)
    if len(sizes) < 4 * rank:
        raise ArtifactError(f"data.load: {path} ends within its header")
    shape = struct.unpack(f">{rank}I", sizes)
    count = math.prod(shape)
    for limit in (MAX_BYTES, max(MIN_EXPANDED, MAX_EXPANSION * path.stat().st_size)):
        if count > limit:
            raise ArtifactError(
                f"data.load: {path} must hold at most {limit} elements, got shape {list(shape)}"
            )
    data = read(count + 1)
    if len(data) != count:
        got = f"{len(data)}" if len(data) < count else "more"
        raise ArtifactError(
            f"data.load: {path} must hold {count} bytes after its header for shape "
            f"{list(shape)}, got {got}"
        )
    return torch.from_numpy(np.frombuffer(bytearray(data), np.uint8).reshape(shape))
