from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mulfree import data
from mulfree.data import DataConfig, ImageSet
from mulfree.errors import ArtifactError, ConfigError, DTypeError, ShapeError


def images(count: int = 4) -> torch.Tensor:
    return torch.arange(count, dtype=torch.uint8).view(count, 1, 1, 1)


def test_subset_and_device() -> None:
    full = ImageSet(images(), torch.tensor([0, 1, 0, 1]))
    part = full.subset(torch.tensor([3, 0]))
    assert part.images.flatten().tolist() == [3, 0]
    assert part.labels.tolist() == [1, 0]
    assert full.to("meta").images.device.type == "meta"
    assert len(full) == 4


def test_a_copy_of_mapped_images_is_in_memory() -> None:
    full = ImageSet(images(), torch.tensor([0, 1, 0, 1]), mapped=True)
    assert full.to("cpu").mapped
    assert not full.to("meta").mapped
    assert not full.subset(torch.tensor([3, 0])).mapped
    assert not ImageSet(images(), torch.tensor([0, 1, 0, 1])).mapped


def test_image_set_rejects_wrong_tensors() -> None:
    with pytest.raises(ShapeError, match=r"`images` must have shape \[N, C, H, W\], got \[4\]"):
        ImageSet(images().flatten(), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ShapeError, match=r"`labels` must have shape \[4\], one per.*got \[3\]"):
        ImageSet(images(), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(DTypeError, match=r"`images` must be torch.uint8, got torch.float32"):
        ImageSet(images().float(), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(DTypeError, match=r"`labels` must be torch.int64, got torch.int32"):
        ImageSet(images(), torch.zeros(4, dtype=torch.int32))


def test_splits_describe_themselves_and_reject_labels_out_of_range() -> None:
    splits = data.make_synthetic(train=8, test=8, classes=3, channels=2, image_size=16)
    assert (splits.num_classes, splits.in_channels, splits.image_size) == (3, 2, 16)
    assert splits.train_transform.augmentation == splits.augmentation is not None
    assert splits.test_transform.augmentation is None
    with pytest.raises(ArtifactError, match=r"`test` labels must lie in 0..2, got 0..3"):
        replace(splits, test=ImageSet(images(), torch.tensor([0, 1, 2, 3])))


def test_hold_out_and_limit_take_the_same_disjoint_images_every_time() -> None:
    config = DataConfig(name="synthetic", validation=0.5, limit=100)
    first, second = data.load(config), data.load(config)
    assert torch.equal(first.train.images, second.train.images)
    assert first.validation is not None
    held = {image.numpy().tobytes() for image in first.validation.images}
    assert held.isdisjoint(image.numpy().tobytes() for image in first.train.images)
    # Classes of 103 or 102 images; half of each, rounded to even.
    assert first.validation.labels.bincount().tolist() == [52] * 4 + [51] * 6
    assert len(held) == len(first.validation)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DataConfig(name="cifar"), "`name` must be one of cifar10, .*did you mean 'cifar10'"),
        (DataConfig(limit=2000), "`limit` must be at most the 1438 training images, got 2000"),
        (DataConfig(validation=0.0001), "`validation` must leave images both in and out"),
    ],
)
def test_load_rejects(config: DataConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^data.load: {message}"):
        data.load(config)


def test_images_of_a_file_are_checked_before_they_are_read() -> None:
    asked: list[list[int]] = []
    full = ImageSet(
        images(),
        torch.tensor([0, 1, 0, 1]),
        mapped=True,
        check=lambda numbers: asked.append(numbers.tolist()),
    )
    full.verify(torch.tensor([2]))
    full.verify()
    assert full.subset(torch.tensor([3, 0])).check is None
    assert full.to("meta").check is None
    assert asked == [[2], [0, 1, 2, 3], [3, 0], [0, 1, 2, 3]]
    assert full.to("cpu").check is full.check
    assert len(asked) == 4
    ImageSet(images(), torch.tensor([0, 1, 0, 1])).verify()


def test_a_fraction_is_taken_after_the_hold_out() -> None:
    whole = data.load(DataConfig(name="digits", validation=0.1))
    parts = [
        data.load(DataConfig(name="digits", validation=0.1, fraction=0.1, subset_seed=seed))
        for seed in (0, 0, 1)
    ]
    counts = whole.train.labels.bincount()
    for part in parts:
        assert whole.validation is not None
        assert part.validation is not None
        assert part.validation.images.equal(whole.validation.images)
        assert part.train.labels.bincount().tolist() == (counts * 0.1).round().tolist()
    assert parts[0].train.images.equal(parts[1].train.images)
    assert not parts[0].train.images.equal(parts[2].train.images)


def test_a_few_images_of_every_class_after_the_hold_out() -> None:
    parts = [
        data.load(DataConfig(name="digits", validation=0.1, per_class=k, subset_seed=seed))
        for k, seed in ((5, 0), (2, 0), (5, 1))
    ]
    for part, count in zip(parts, (5, 2, 5), strict=True):
        assert part.train.labels.bincount().tolist() == [count] * 10
        assert part.validation is not None
        assert len(part.validation) == 143
    more, fewer, other = ({image.numpy().tobytes() for image in p.train.images} for p in parts)
    assert fewer < more
    assert more != other
    assert len(data.load(DataConfig(name="digits", per_class=139)).train) == 1390
    message = r"^data.load: `per_class` must be at most the 139 .* images of class '8', .* 140$"
    with pytest.raises(ConfigError, match=message):
        data.load(DataConfig(name="digits", per_class=140))


def test_statistics() -> None:
    config = DataConfig(name="synthetic", mean=(0.25,), std=(0.5, 0.4, 0.3))
    splits = data.load(config)
    assert (splits.mean, splits.std) == ((0.25, 0.25, 0.25), (0.5, 0.4, 0.3))
    white = splits.test_transform(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8), torch.empty(1))
    torch.testing.assert_close(white.flatten(), torch.tensor([1.5, 1.875, 2.5]))
    with pytest.raises(ConfigError, match=r"^data.load: `mean` must hold .* 3 channels, .* got 2$"):
        data.load(DataConfig(name="synthetic", mean=(0.5, 0.5), std=(1.0,)))
    with pytest.raises(ConfigError, match=r"`std` must hold one positive number for each of the 3"):
        _ = data.load(DataConfig(name="synthetic", mean=(0.5,), std=(0.0,))).test_transform
