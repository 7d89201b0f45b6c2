"""Digests of the rows of an array file, compared on the first read of each row.

A flipped bit in an image goes unnoticed otherwise. Verifying a large set before training would take
as long as an epoch; a digest per row reads nothing extra.
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
    """Comparison of rows with their digests, once per row. Thread-safe.

    Args:
        rows: `[N, ...]`.
        digests: Digests of the rows, `[N, 16]`.
        damaged: Creates the error for a row that differs.
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
        # Entries only change from False to True: threads at worst compare a row twice.
        self._intact = np.zeros(len(rows), np.bool_)

    def __call__(self, numbers: NDArray[np.int64]) -> None:
        """Compare the rows with these indices, except those compared before."""
        for number in numbers[~self._intact[numbers]]:
            if _digest(self._rows[number]) != self._digests[number].tobytes():
                raise self._damaged()
            self._intact[number] = True
