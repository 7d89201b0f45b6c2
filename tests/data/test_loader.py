from __future__ import annotations

import threading
import warnings
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.loader import count as count_operations
from hypothesis import given
from hypothesis import strategies as st
from tests.data.test_prefetch import own_threads

from mulfree.data import BatchLoader, ImageSet, ResizedCrop, ShiftFlip, Transform
from mulfree.data.cache import map_array
from mulfree.data.row_digests import RowCheck, row_digests
from mulfree.errors import ArtifactError, ConfigError

SHIFT = Transform(mean=(0.5,), std=(0.25,), augmentation=ShiftFlip(padding=2))
CROP = Transform(mean=(0.5,), std=(0.25,), augmentation=ResizedCrop(size=4))


def numbered(count: int, *, mapped: bool = False) -> ImageSet:
    """Images whose labels are their numbers; perhaps only said to lie in a file."""
    pixels = torch.randint(
        256, (count, 1, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return ImageSet(pixels, torch.arange(count), mapped=mapped)


def batches(loader: BatchLoader) -> list[tuple[torch.Tensor, list[int]]]:
    return [(images, labels.tolist()) for images, labels in loader]


def assert_same(
    left: list[tuple[torch.Tensor, list[int]]], right: list[tuple[torch.Tensor, list[int]]]
) -> None:
    assert [labels for _, labels in left] == [labels for _, labels in right]
    for (one, _), (other, _) in zip(left, right, strict=True):
        assert torch.equal(one, other)


def drawn_batch_by_batch(
    image_set: ImageSet,
    size: int,
    transform: Transform,
    *,
    seed: int,
    epoch: int,
    train: bool,
    drop_last: bool,
    rank: int = 0,
    world_size: int = 1,
) -> list[tuple[torch.Tensor, list[int]]]:
    """The rule by which published runs were made, one batch after the other."""

    def generator(stream: int) -> torch.Generator:
        mixed = np.random.SeedSequence([seed, epoch, stream]).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(mixed[0] >> np.uint64(1)))

    count = len(image_set)
    order = torch.randperm(count, generator=generator(0)) if train else torch.arange(count)
    bounds = list(range(0, count + 1, size * world_size))
    if not drop_last and count - bounds[-1] >= world_size:
        bounds.append(count)
    elif not drop_last:
        bounds[-1] = count
    result = []
    for batch, (start, stop) in enumerate(pairwise(bounds)):
        whole = stop - start
        low, high = whole * rank // world_size, whole * (rank + 1) // world_size
        rows = order[start + low : start + high]
        chance = transform.draw(whole, generator(batch + 1))[low:high]
        images = image_set.images[rows]
        if transform.augmentation is not None:
            images = transform.augmentation(images, chance)
        std = torch.tensor(transform.std).view(-1, 1, 1)
        mean = torch.tensor(transform.mean).view(-1, 1, 1)
        images = torch.addcmul(-mean / std, images.float(), 1 / (255 * std))
        result.append((images, image_set.labels[rows].tolist()))
    return result


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("transform", [SHIFT, CROP, Transform(mean=(0.1,), std=(0.3,))])
def test_batches_are_those_of_published_runs(
    transform: Transform, drop_last: bool, mapped: bool
) -> None:
    image_set = numbered(29, mapped=mapped)
    for train, world_size in ((True, 1), (True, 3), (False, 2)):
        for rank in range(world_size):
            options: dict[str, Any] = {"seed": 5, "train": train, "drop_last": drop_last}
            options |= {"rank": rank, "world_size": world_size}
            loader = BatchLoader(image_set, 4, transform=transform, **options)
            for epoch in (0, 1):
                expected = drawn_batch_by_batch(image_set, 4, transform, epoch=epoch, **options)
                assert len(expected) == len(loader)
                assert_same(batches(loader), expected)


@pytest.mark.parametrize("prefetch", [0, 1, 5])
def test_a_file_is_read_as_memory_would_be(tmp_path: Path, prefetch: int) -> None:
    memory = numbered(50)
    np.save(tmp_path / "images.npy", memory.images.numpy())
    file = ImageSet(map_array(tmp_path / "images.npy"), memory.labels, mapped=True)
    options: dict[str, Any] = {"train": True, "transform": SHIFT}
    loader = BatchLoader(file, 8, prefetch=prefetch, **options)
    expected = BatchLoader(memory, 8, **options)
    for _ in range(2):
        assert_same(batches(loader), batches(expected))


@dataclass(frozen=True, kw_only=True)
class Watched:
    """Notes the threads that draw; fails at the draw number `fails`."""

    threads: list[str]
    fails: int = -1

    def draw(self, count: int, generator: torch.Generator) -> torch.Tensor:
        if len(self.threads) == self.fails:
            raise BlockingIOError("the disk is gone")
        self.threads.append(threading.current_thread().name)
        return torch.empty(count, 0)

    def __call__(self, images: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        return images


@pytest.mark.parametrize(
    ("mapped", "prefetch", "device", "name"),
    [
        (False, 2, "cpu", "MainThread"),
        (True, 0, "cpu", "MainThread"),
        (True, 2, "cpu", "mulfree-prefetch"),
        (False, 2, "meta", "mulfree-prefetch"),
    ],
)
def test_a_thread_reads_what_has_a_way_to_go(
    mapped: bool, prefetch: int, device: str, name: str
) -> None:
    threads: list[str] = []
    transform = Transform(mean=(0.0,), std=(1.0,), augmentation=Watched(threads=threads))
    loader = BatchLoader(
        numbered(20, mapped=mapped),
        4,
        train=True,
        transform=transform,
        prefetch=prefetch,
        device=device,
    )
    devices = [(images.device.type, labels.device.type) for images, labels in loader]
    assert devices == [(device, device)] * 5
    assert threads == [name] * 5
    assert own_threads() == []


def test_an_error_while_reading_is_the_consumers_and_batches_before_it_count() -> None:
    transform = Transform(mean=(0.0,), std=(1.0,), augmentation=Watched(threads=[], fails=3))
    loader = BatchLoader(numbered(40, mapped=True), 4, train=True, transform=transform)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    with pytest.raises(BlockingIOError, match="the disk is gone"):
        seen.extend(iter(loader))
    assert loader.state_dict() == {"epoch": 0, "batch": 3}
    assert own_threads() == []


def test_no_thread_is_left_when_a_pass_is_given_up() -> None:
    loader = BatchLoader(numbered(400, mapped=True), 4, train=True, transform=SHIFT)
    next(iter(loader))
    assert own_threads() == []
    for _ in islice(loader, 3):
        assert len(own_threads()) == 1
    assert own_threads() == []

    def consume() -> None:
        for _ in loader:
            raise KeyError("of the consumer")

    with pytest.raises(KeyError, match="of the consumer"):
        consume()
    held = iter(loader)
    next(held)
    assert len(own_threads()) == 1
    del held
    assert own_threads() == []
    assert loader.state_dict() == {"epoch": 0, "batch": 1}


def test_a_batch_costs_an_accelerator_few_operations_and_no_copy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on_device = numbered(64).to("meta")
    options: dict[str, Any] = {"train": True, "device": "meta"}
    for transform, operations in ((SHIFT, 8), (None, 2), (CROP, 18)):
        counted = count_operations(BatchLoader(on_device, 8, transform=transform, **options))
        # A pass starts with order and chance, copied, and the labels brought into that order.
        assert counted["start"] == {"operations": 1, "copies": 2, "waits": 0}
        assert counted["batch"] == {"operations": operations, "copies": 0, "waits": 0}
    counted = count_operations(BatchLoader(numbered(64), 8, transform=SHIFT, prefetch=0, **options))
    assert counted["start"] == {"operations": 0, "copies": 0, "waits": 0}
    assert counted["batch"] == {"operations": 7, "copies": 3, "waits": 0}

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a constant made again, which waits for the device")

    crop = Transform(mean=(0.5,), std=(0.25,), augmentation=ResizedCrop(size=4))
    iterator = iter(BatchLoader(on_device, 8, transform=crop, **options))
    next(iterator)
    for maker in ("tensor", "linspace"):
        monkeypatch.setattr(torch, maker, refuse)
    next(iterator)
    # Constants are no part of the value.
    fresh = replace(crop, augmentation=ResizedCrop(size=4))
    assert (crop, hash(crop), repr(crop)) == (fresh, hash(fresh), repr(fresh))


@pytest.mark.gpu
@pytest.mark.parametrize("transform", [SHIFT, None])
@pytest.mark.parametrize("resident", [True, False])
def test_a_gpu_gets_the_batches_of_the_cpu(resident: bool, transform: Transform | None) -> None:
    image_set = numbered(50)
    options: dict[str, Any] = {"train": True, "drop_last": False, "transform": transform}
    expected = BatchLoader(image_set, 8, **options)
    placed = image_set.to("cuda") if resident else image_set
    loader = BatchLoader(placed, 8, device="cuda", **options)
    for _ in range(2):
        for (images, labels), (its_images, its_labels) in zip(expected, loader, strict=True):
            assert its_images.is_cuda
            assert its_labels.is_cuda
            assert torch.equal(its_labels.cpu(), labels)
            # Up to 4 before the mean is subtracted: one rounding of that product more or less.
            torch.testing.assert_close(its_images.cpu(), images, rtol=0, atol=2**-22)
    assert own_threads() == []


@pytest.mark.gpu
@pytest.mark.parametrize("resident", [True, False])
def test_a_gpu_is_never_waited_for(resident: bool) -> None:
    image_set = numbered(50).to("cuda") if resident else numbered(50)
    loader = BatchLoader(image_set, 8, train=True, transform=SHIFT, device="cuda")
    next(iter(loader))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype", UserWarning)
        torch.cuda.set_sync_debug_mode("error")
    try:
        assert sum(1 for _ in loader) == 6
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_images_are_repeated_in_a_pass() -> None:
    loader = BatchLoader(numbered(5), 4, train=True, repeat=4, transform=SHIFT)
    whole = batches(loader)
    assert len(loader) == len(whole) == 5
    labels = torch.tensor([labels for _, labels in whole]).flatten()
    assert labels.bincount().tolist() == [4] * 5
    # Every time with an augmentation of its own.
    shown = torch.cat([images for images, _ in whole])[labels == 3]
    assert len(shown.flatten(1).unique(dim=0)) > 1
    halves = [
        BatchLoader(numbered(5), 2, train=True, repeat=4, rank=rank, world_size=2, transform=SHIFT)
        for rank in (0, 1)
    ]
    shared = zip(*map(batches, halves), strict=True)
    merged = [(torch.cat([a, b]), first + second) for (a, first), (b, second) in shared]
    assert_same(merged, whole)


def test_evaluation_is_complete_and_scales_pixels_to_one() -> None:
    image_set = numbered(10)
    loader = BatchLoader(image_set, 4, train=False)
    assert len(loader) == 3
    images = torch.cat([images for images, _ in loader])
    torch.testing.assert_close(images, image_set.images / 255, rtol=1e-6, atol=0)


@pytest.mark.parametrize("mapped", [False, True])
def test_a_position_resumes_at_the_exact_batch(mapped: bool) -> None:
    image_set = numbered(50, mapped=mapped)
    whole = BatchLoader(image_set, 8, train=True, seed=1, transform=SHIFT)
    epochs = [batches(whole) for _ in range(3)]
    for position in range(len(whole) + 1):
        killed = BatchLoader(image_set, 8, train=True, seed=1, transform=SHIFT)
        killed.set_epoch(1)
        list(islice(killed, position))
        state = killed.state_dict()
        assert state == {"epoch": 1, "batch": position}

        resumed = BatchLoader(image_set, 8, train=True, seed=1, transform=SHIFT)
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
    loader.sampler.set_epoch(5)
    assert loader.epoch == 5
    assert loader.batch_sampler is None
    with pytest.raises(ConfigError, match="set_epoch: `epoch` must not be negative, got -1"):
        loader.set_epoch(-1)


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        ({"world_size": 0}, "`world_size` must be at least 1, got 0"),
        ({"rank": 2, "world_size": 2}, "`rank` must lie in 0..1, got 2"),
        ({"rank": -1}, "`rank` must lie in 0..0, got -1"),
        ({"seed": -1}, "`seed` must lie in 0..4294967295, got -1"),
        (
            {"repeat": 0},
            "`repeat` must be at least 1, and at most 268435456 images in a pass, got 0",
        ),
        ({"repeat": 2**25}, "`repeat` must be .*, got 33554432 times 10 images"),
        ({"prefetch": -1}, "`prefetch` must not be negative, got -1"),
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


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_damaged_image_ends_the_pass_that_reads_it(prefetch: int) -> None:
    memory = numbered(50)
    digests = row_digests(memory.images.numpy())
    memory.images[33, 0, 2, 3] ^= 16

    def error() -> ArtifactError:
        return ArtifactError("image 33 is damaged")

    check = RowCheck(memory.images.numpy(), digests, error)
    file = ImageSet(memory.images, memory.labels, mapped=True, check=check)
    batch = iter(BatchLoader(file, 5, train=False, prefetch=prefetch))
    seen = [label for _, labels in islice(batch, 6) for label in labels.tolist()]
    assert seen == list(range(30))
    with pytest.raises(ArtifactError, match="image 33 is damaged"):
        next(batch)
