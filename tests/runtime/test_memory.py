"""The memory plan: no two blocks in one place at once, in the places of earlier versions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mulfree.runtime.memory import LINE, Block, plan

BLOCKS = st.lists(
    st.builds(
        lambda size, first, length: Block(size, first, first + length),
        st.integers(1, 1000) | st.sampled_from([64, 128, 1 << 40]),
        st.integers(0, 12),
        st.integers(0, 6),
    ),
    max_size=20,
)


def lines(block: Block) -> int:
    return -(-block.size // LINE) * LINE


@given(BLOCKS)
def test_blocks_in_use_at_once_are_apart(blocks: list[Block]) -> None:
    offsets, size = plan(blocks)
    assert all(offset >= 0 and offset % LINE == 0 for offset in offsets)
    ends = [offset + lines(block) for offset, block in zip(offsets, blocks, strict=True)]
    assert size == max(ends, default=0)
    for i, a in enumerate(blocks):
        for j, b in enumerate(blocks[:i]):
            if a.first <= b.last and b.first <= a.last:
                assert ends[i] <= offsets[j] or ends[j] <= offsets[i]
    for op in range(20):
        assert size >= sum(lines(block) for block in blocks if block.first <= op <= block.last)


@given(BLOCKS)
def test_each_block_is_at_the_lowest_free_place(blocks: list[Block]) -> None:
    """As the larger ones before it leave it."""
    offsets, _ = plan(blocks)
    order = sorted(range(len(blocks)), key=lambda index: -lines(blocks[index]))
    for number, index in enumerate(order):
        block, larger = blocks[index], order[:number]
        taken = [
            (offsets[other], offsets[other] + lines(blocks[other]))
            for other in larger
            if blocks[other].first <= block.last and block.first <= blocks[other].last
        ]
        places = [0, *(end for _, end in taken)]
        free = [
            place
            for place in places
            if all(place + lines(block) <= start or end <= place for start, end in taken)
        ]
        assert offsets[index] == min(free)


def test_places_of_earlier_versions() -> None:
    assert plan([]) == ([], 0)
    blocks = [(640, 15, 20), (2231, 11, 17), (640, 15, 18), (1536, 6, 12), (640, 12, 12)]
    blocks += [(1856, 12, 18), (640, 13, 13), (1472, 6, 11), (640, 0, 4), (1344, 10, 14)]
    blocks += [(896, 9, 15), (1344, 13, 15)]
    offsets = [5440, 0, 6080, 4096, 7872, 2240, 7872, 2240, 0, 5632, 6976, 4096]
    assert plan([Block(*block) for block in blocks]) == (offsets, 8512)
