"""Memory plan of a program: a place in one arena for each block that some of its ops use."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import NamedTuple

LINE = 64
"""Alignment of all places, a cache line."""


class Block(NamedTuple):
    """Bytes that the ops first..last use."""

    size: int
    first: int
    last: int


def plan(blocks: Sequence[Block]) -> tuple[list[int], int]:
    """Return the offset of each block and the size of the arena.

    Greedy: the largest block first, each at the lowest place that is free while it is in use.
    """
    offsets = [0] * len(blocks)
    placed: list[tuple[int, int, int, int]] = []  # offset, end, first and last op, by offset
    lines = [-(-block.size // LINE) * LINE for block in blocks]
    for index in sorted(range(len(blocks)), key=lambda index: -lines[index]):
        (_, first, last), size, offset = blocks[index], lines[index], 0
        for start, end, begin, until in placed:
            if until < first or last < begin:
                continue
            if offset + size <= start:
                break
            offset = max(offset, end)
        bisect.insort(placed, (offset, offset + size, first, last))
        offsets[index] = offset
    return offsets, max((end for _, end, *_ in placed), default=0)
