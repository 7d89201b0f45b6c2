from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mulfree import data
from mulfree.data import DataConfig, ImageSet, ShiftFlip
from mulfree.data.resize import resized
from mulfree.errors import ConfigError


def splits(images: torch.Tensor) -> data.DataSplits:
    labels = torch.zeros(len(images), dtype=torch.int64)
    return replace(
        data.make_synthetic(train=4, test=4, classes=2, image_size=images.shape[-1]),
        train=ImageSet(images, labels),
        test=ImageSet(images, labels),
        augmentation=ShiftFlip(padding=4),
    )


def test_values_of_halves_and_doubles() -> None:
    image = torch.tensor([[0, 0, 100, 100], [0, 0, 100, 100]], dtype=torch.uint8).repeat(2, 1)
    images = image.expand(3, 3, 4, 4).contiguous()
    small = resized(splits(images), 2)
    # The triangle of antialiasing has weights 1/8, 3/8, 3/8, 1/8 inside and is cut at the border.
    row = torch.tensor([100 * 1 / 7, 100 * 6 / 7]).round().to(torch.uint8)
    assert torch.equal(small.train.images, row.expand(3, 3, 2, 2))
    assert torch.equal(small.test.images, small.train.images)
    assert small.image_size == 2
    large = resized(splits(images), 8).train.images[0, 0, 0]
    assert large.tolist() == [0, 0, 0, 25, 75, 100, 100, 100]


def test_shifts_grow_with_the_images() -> None:
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    assert resized(splits(images), 24).augmentation == ShiftFlip(padding=3)
    assert resized(splits(images), 64).augmentation == ShiftFlip(padding=8)


def test_sets_of_one_size_are_resized_on_loading() -> None:
    plain = data.load(DataConfig(name="digits", validation=0.1))
    small = data.load(DataConfig(name="digits", validation=0.1, image_size=6))
    assert plain.train.images.shape[2:] == (8, 8)
    assert small.image_size == 6
    assert small.validation is not None
    for part in (small.train, small.validation, small.test):
        assert part.images.shape[2:] == (6, 6)
    assert torch.equal(small.train.labels, plain.train.labels)
    # Pixels 0..16 of the digits as bytes; resizing keeps their mean.
    means = [part.train.images.float().mean() for part in (plain, small)]
    assert float(means[1]) == pytest.approx(float(means[0]), rel=0.02)


def test_one_size_is_left_alone() -> None:
    own = splits(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    assert resized(own, 8) is own


def test_too_many_pixels_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"`image_size` must give at most 4294967296 .* got 9999"):
        data.load(DataConfig(name="digits", image_size=9999))
