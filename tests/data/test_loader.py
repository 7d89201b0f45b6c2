from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mulfree.data import BatchLoader, ImageSet, ShiftFlip, Transform
from mulfree.errors import ConfigError

SHIFT = Transform(mean=(0.5,), std=(0.25,), augmentation=ShiftFlip(padding=2))


def numbered(count: int) -> ImageSet:
    """Images whose labels are their numbers."""
    pixels = torch.randint(
        256, (count, 1, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return ImageSet(pixels, torch.arange(count))


def batches(loader: BatchLoader) -> list[tuple[torch.Tensor, list[int]]]:
    return [(images, labels.tolist()) for images, labels in loader]


def assert_same(
    left: list[tuple[torch.Tensor, list[int]]], right: list[tuple[torch.Tensor, list[int]]]
) -> None:
    assert [labels for _, labels in left] == [labels for _, labels in right]
    for (one, _), (other, _) in zip(left, right, strict=True):
        assert torch.equal(one, other)


def test_evaluation_is_in_order_and_complete() -> None:
    image_set = numbered(10)
    loader = BatchLoader(image_set, 4, train=False)
    got = batches(loader)
    assert len(loader) == 3
    assert [labels for _, labels in got] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    torch.testing.assert_close(
        torch.cat([images for images, _ in got]), image_set.images / 255, rtol=1e-6, atol=0
    )
    assert_same(batches(loader), got)


def test_training_shuffles_and_leaves_out_the_rest() -> None:
    loader = BatchLoader(numbered(50), 8, train=True, transform=SHIFT)
    seen = [number for _, labels in batches(loader) for number in labels]
    assert len(loader) == 6
    assert len(set(seen)) == len(seen) == 48
    assert seen != sorted(seen)


def test_order_and_augmentation_are_a_function_of_seed_and_epoch() -> None:
    def epochs(seed: int) -> list[list[tuple[torch.Tensor, list[int]]]]:
        loader = BatchLoader(numbered(32), 8, train=True, seed=seed, transform=SHIFT)
        return [batches(loader) for _ in range(2)]

    first, again, other = epochs(3), epochs(3), epochs(4)
    for one, same in zip(first, again, strict=True):
        assert_same(one, same)
    orders = [[labels for _, labels in epoch] for epoch in (*first, *other)]
    assert all(orders.count(order) == 1 for order in orders)


def test_augmentation_differs_between_batches_and_epochs() -> None:
    constant = ImageSet(numbered(1).images.repeat(16, 1, 1, 1), torch.zeros(16).long())
    loader = BatchLoader(constant, 8, train=True, transform=SHIFT)
    drawn = [images for _ in range(2) for images, _ in loader]
    for number, one in enumerate(drawn):
        assert not any(torch.equal(one, other) for other in drawn[:number])


def test_a_position_resumes_at_the_exact_batch() -> None:
    whole = BatchLoader(numbered(50), 8, train=True, seed=1, transform=SHIFT)
    epochs = [batches(whole) for _ in range(3)]
    for position in range(len(whole) + 1):
        killed = BatchLoader(numbered(50), 8, train=True, seed=1, transform=SHIFT)
        killed.set_epoch(1)
        list(islice(killed, position))
        state = killed.state_dict()
        assert state == {"epoch": 1, "batch": position}

        resumed = BatchLoader(numbered(50), 8, train=True, seed=1, transform=SHIFT)
        resumed.load_state_dict(state)
        if position < len(whole):
            resumed.set_epoch(1)  # what a training loop says again at the start
            assert_same(batches(resumed), epochs[1][position:])
        resumed.set_epoch(2)
        assert_same(batches(resumed), epochs[2])


def test_a_position_loaded_after_iter_still_counts() -> None:
    whole = BatchLoader(numbered(50), 8, train=True, transform=SHIFT)
    iterator = iter(whole)
    whole.load_state_dict({"epoch": 0, "batch": 4})
    rest = [(images, labels.tolist()) for images, labels in iterator]
    assert_same(rest, batches(BatchLoader(numbered(50), 8, train=True, transform=SHIFT))[4:])


def test_state_counts_batches_handed_out() -> None:
    loader = BatchLoader(numbered(50), 8, train=True, transform=SHIFT)
    for number, _ in enumerate(loader, start=1):
        assert loader.state_dict() == {"epoch": 0, "batch": number}
        assert loader.batches_seen == number


def test_where_a_pass_starts() -> None:
    loader = BatchLoader(numbered(20), 4, train=True)
    first = batches(loader)
    loader.set_epoch(0)
    assert_same(batches(loader), first)  # set_epoch: that epoch, from its start
    second = batches(loader)  # a complete pass before: the next epoch
    assert loader.epoch == 1
    loader.set_epoch(1)
    next(iter(loader))  # a look at a batch moves nothing
    assert_same(batches(loader), second)
    loader.load_state_dict({"epoch": 1, "batch": 2})
    loader.set_epoch(0)  # another epoch than the loaded position: from its start
    assert_same(batches(loader), first)


def test_a_training_loop_finds_set_epoch() -> None:
    loader = BatchLoader(numbered(20), 4, train=True)
    assert loader.batch_sampler is None
    loader.sampler.set_epoch(5)
    assert loader.epoch == 5


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("drop_last", [False, True])
def test_processes_share_the_batches_of_one(world_size: int, drop_last: bool) -> None:
    image_set = numbered(50)  # leaves a rest of 2 at two processes, 5 at three
    options: dict[str, Any] = {"train": True, "seed": 2, "transform": SHIFT}
    alone = BatchLoader(image_set, 3 * world_size, drop_last=drop_last, **options)
    parts = [
        BatchLoader(image_set, 3, rank=rank, world_size=world_size, drop_last=drop_last, **options)
        for rank in range(world_size)
    ]
    assert {len(part) for part in parts} == {len(alone)}
    for epoch in (0, 1):
        for loader in (alone, *parts):
            loader.set_epoch(epoch)
        shared = [
            (torch.cat([images for images, _ in group]), [n for _, names in group for n in names])
            for group in zip(*(batches(part) for part in parts), strict=True)
        ]
        assert_same(shared, batches(alone))


@given(
    count=st.integers(1, 40),
    batch_size=st.integers(1, 6),
    world_size=st.integers(1, 5),
    drop_last=st.booleans(),
)
def test_every_image_goes_to_one_process(
    count: int, batch_size: int, world_size: int, drop_last: bool
) -> None:
    if count < (batch_size * world_size if drop_last else world_size):
        return
    parts = [
        [
            labels.tolist()
            for _, labels in BatchLoader(
                numbered(count),
                batch_size,
                train=False,
                rank=rank,
                world_size=world_size,
                drop_last=drop_last,
            )
        ]
        for rank in range(world_size)
    ]
    assert len({len(part) for part in parts}) == 1
    seen = sorted(number for part in parts for labels in part for number in labels)
    kept = count - count % (batch_size * world_size) if drop_last else count
    assert seen == list(range(kept))
    sizes = [len(labels) for part in parts for labels in part]
    assert min(sizes) >= 1
    assert max(sizes) <= (batch_size if drop_last or world_size == 1 else batch_size + 1)


def test_batches_come_on_the_device_asked_for() -> None:
    loader = BatchLoader(numbered(8).to("meta"), 4, train=True, transform=SHIFT, device="meta")
    images, labels = next(iter(loader))
    assert images.device.type == labels.device.type == "meta"
    assert images.shape == (4, 1, 6, 6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        ({"world_size": 0}, "`world_size` must be at least 1, got 0"),
        ({"rank": 2, "world_size": 2}, "`rank` must lie in 0..1, got 2"),
        ({"rank": -1}, "`rank` must lie in 0..0, got -1"),
        ({"seed": -1}, "`seed` must lie in 0..4294967295, got -1"),
        ({"batch_size": 11}, "`image_set` must hold at least 11 images .*, got 10"),
        ({"batch_size": 4, "world_size": 3}, "`image_set` must hold at least 12 images .*, got 10"),
        ({"train": False, "world_size": 11}, "`image_set` must hold at least 11 images"),
    ],
)
def test_rejects(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^BatchLoader: {message}"):
        BatchLoader(numbered(10), **{"batch_size": 2, "train": True, **options})


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"epoch": 0},
        {"epoch": 0, "batch": 6},
        {"epoch": -1, "batch": 0},
        {"epoch": 0, "batch": -1},
    ],
)
def test_rejects_positions(state: dict[str, int]) -> None:
    loader = BatchLoader(numbered(10), 2, train=True)
    with pytest.raises(ConfigError, match=r"`state` must hold an epoch and a batch in 0..5, got"):
        loader.load_state_dict(state)


def test_rejects_a_negative_epoch() -> None:
    with pytest.raises(ConfigError, match="set_epoch: `epoch` must not be negative, got -1"):
        BatchLoader(numbered(10), 2, train=True).set_epoch(-1)
