from __future__ import annotations

import pytest
import torch

from mulfree import data
from mulfree.data import DataConfig
from mulfree.errors import ConfigError


def test_size_and_classes_as_asked_for_and_always_the_same() -> None:
    options = {"train": 20, "test": 6, "classes": 4, "channels": 2, "image_size": 12}
    first, second = data.make_synthetic(**options), data.make_synthetic(**options)
    assert first.train.images.shape == (20, 2, 12, 12)
    assert first.test.labels.tolist() == [0, 1, 2, 3, 0, 1]
    assert torch.equal(first.train.images, second.train.images)
    other = data.make_synthetic(**options, seed=1)
    assert not torch.equal(first.train.images, other.train.images)


def test_too_many_pixels_for_memory() -> None:
    with pytest.raises(
        ConfigError, match=r"`image_size` must give synthetic images of .* got 400 with 3 classes"
    ):
        data.load(DataConfig(name="synthetic", image_size=400, classes=3))


@pytest.mark.parametrize("classes", [2, 10])
def test_a_linear_rule_learnt_from_train_holds_on_test(classes: int) -> None:
    splits = data.make_synthetic(train=200, test=100, classes=classes, image_size=8)
    train = splits.train.images.double().flatten(1)
    centres = torch.stack([train[splits.train.labels == label].mean(0) for label in range(classes)])
    guess = torch.cdist(splits.test.images.double().flatten(1), centres).argmin(1)
    assert (guess == splits.test.labels).double().mean() > 0.95
