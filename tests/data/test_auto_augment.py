from __future__ import annotations

import pytest
import torch

from mulfree import data
from mulfree.data import AutoAugment, DataConfig, ResizedCrop, ShiftFlip, image_ops
from mulfree.data.auto_augment import _OPERATIONS, POLICIES
from mulfree.errors import ConfigError, ShapeError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(count: int = 64, side: int = 16) -> torch.Tensor:
    size = (count, 3, side, side)
    return torch.randint(256, size, dtype=torch.uint8, generator=generator(1))


@pytest.mark.parametrize("policy", POLICIES)
def test_policies_have_25_pairs_of_known_operations(policy: str) -> None:
    assert len(POLICIES[policy]) == 25
    for name, probability, magnitude in (step for pair in POLICIES[policy] for step in pair):
        assert name in _OPERATIONS
        assert 0 <= probability <= 1
        assert magnitude in range(10)


def test_values_at_magnitudes() -> None:
    """Ranges of arXiv 1805.09501, Table 6, in ten equal steps."""
    values = {name: operation.values for name, operation in _OPERATIONS.items()}
    assert values["rotate"][9] == pytest.approx(30)
    assert values["shear_x"][3] == pytest.approx(0.1)
    assert values["translate_y"][9] * 331 == pytest.approx(150)
    assert values["color"][0] == pytest.approx(0.1)
    assert values["sharpness"][9] == pytest.approx(1.9)
    assert values["solarize"] == pytest.approx([256 - 256 * m / 9 for m in range(10)])
    assert [values["posterize"][m] for m in (0, 5, 6, 7, 8, 9)] == [8, 6, 5, 5, 4, 4]


def test_an_image_gets_the_operations_of_its_sub_policy() -> None:
    augment = AutoAugment(policy="imagenet")
    images = batch(4)
    # Sub-policy 0: posterize with 0.4, then rotate with 0.6.
    drawn = torch.tensor(
        [[0.39, 0.59, 1, -1], [0.41, 0.59, 1, 1], [0.39, 0.61, 1, 1], [1, 1, 1, 1]]
    )
    got = augment(images, torch.cat([torch.zeros(4, 1), drawn], dim=1))
    four = image_ops.posterize(images, torch.full((4,), 4.0))
    assert torch.equal(got[0], image_ops.rotate(four[:1], torch.tensor([-30.0]))[0])
    assert torch.equal(got[1], image_ops.rotate(images[1:2], torch.tensor([30.0]))[0])
    assert torch.equal(got[2], four[2])
    assert torch.equal(got[3], images[3])


def test_draws_are_uniform_and_repeatable() -> None:
    augment = AutoAugment(policy="cifar", first=ShiftFlip(padding=2))
    drawn = augment.draw(5000, generator())
    assert torch.equal(drawn, augment.draw(5000, generator()))
    counts = drawn[:, 0].long().bincount(minlength=25)
    assert counts.min() > 130
    assert counts.max() < 270
    assert set(drawn[:, 3:5].unique().tolist()) == {-1.0, 1.0}
    assert 0.47 < drawn[:, 1].mean() < 0.53


@pytest.mark.parametrize("first", [ShiftFlip(padding=2), ResizedCrop(size=8), None])
def test_the_division_of_a_batch_changes_nothing(first: data.Augmentation | None) -> None:
    augment = AutoAugment(policy="cifar", first=first)
    images = batch()
    drawn = augment.draw(len(images), generator())
    whole = augment(images, drawn)
    assert whole.dtype == torch.uint8
    parts = [augment(images[rows], drawn[rows]) for rows in (slice(0, 10), slice(10, 64))]
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(images, batch())


def test_the_first_augmentation_gets_its_own_draws() -> None:
    first = ShiftFlip(padding=2)
    augment = AutoAugment(policy="imagenet", first=first)
    drawn = augment.draw(8, generator())
    drawn[:, 1:3] = 1.0  # no operation
    assert torch.equal(augment(batch(8), drawn), first(batch(8), drawn[:, 5:].long()))


def test_rejects() -> None:
    with pytest.raises(ConfigError, match=r"^AutoAugment: `policy` must be one of cifar, imagenet"):
        AutoAugment(policy="svhn")
    augment = AutoAugment(policy="cifar")
    with pytest.raises(
        ShapeError, match=r"^AutoAugment: `images` must have 3 channels, got \[2, 1"
    ):
        augment(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), augment.draw(2, generator()))


def test_it_is_an_option_of_the_data() -> None:
    config = DataConfig(name="synthetic", image_size=8, augment="autoaugment_cifar")
    splits = data.load(config)
    assert splits.augmentation == AutoAugment(
        policy="cifar", first=ShiftFlip(padding=0, flip=False)
    )
    loader = data.BatchLoader(splits.train, 16, train=True, transform=splits.train_transform)
    images, _ = next(iter(loader))
    assert images.shape == (16, 3, 8, 8)
    message = "^data.load: `augment` must be default or none for images of 1 channels, got autoau"
    with pytest.raises(ConfigError, match=message):
        data.load(DataConfig(name="digits", augment="autoaugment_imagenet"))
