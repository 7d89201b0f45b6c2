"""Digests of the rows of an array in a file, compared when a row is first read.

A flipped bit in an image gives another image. Reading all of a large set before training would take
as long as an epoch; a digest for every row costs nothing that is not read anyway.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

_BYTES = 16


def row_digests(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """BLAKE2b of each row of an array `[N, ...]`, `[N, 16]`."""
    digests = b"".join(map(_digest, rows))
    return np.frombuffer(digests, np.uint8).reshape(len(rows), _BYTES)


def _digest(row: NDArray[np.uint8]) -> bytes:
    return hashlib.blake2b(row.reshape(-1).data, digest_size=_BYTES).digest()


class RowCheck:
    """Compares rows of an array with their digests, each row once. Threads may share it.

    Args:
        rows: `[N, ...]`.
        digests: Of the rows, `[N, 16]`.
        damaged: Makes the error for rows that are not what they were.
    """

    def __init__(
        self,
        rows: NDArray[np.uint8],
        digests: NDArray[np.uint8],
        damaged: Callable[[], Exception],
    ) -> None:
        self._rows = rows
        self._digests = digests
        self._damaged = damaged
        # Rows only ever change from False to True, so threads at worst compare one twice.
        self._intact = np.zeros(len(rows), np.bool_)

    def __call__(self, numbers: NDArray[np.int64]) -> None:
        """Compare the rows of these numbers that have not been compared before."""
        for number in numbers[~self._intact[numbers]]:
            if _digest(self._rows[number]) != self._digests[number].tobytes():
                raise self._damaged()
            self._intact[number] = True
