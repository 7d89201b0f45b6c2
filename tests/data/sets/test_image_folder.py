from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.data.files import labelled, pixels, png, write_folder, write_zip

from mulfree import data
from mulfree.data import CentreCrop, DataConfig, ResizedCrop, ShiftFlip
from mulfree.errors import ArtifactError, ConfigError, DataError


def config(path: Path, **options: int | float) -> DataConfig:
    return DataConfig(name="image_folder", root=str(path), **options)  # type: ignore[arg-type]


def test_images_of_one_size_stay_as_they_are(tmp_path: Path) -> None:
    splits = data.load(config(write_folder(tmp_path / "x", labelled(classes=3, side=16))))
    assert splits.classes == ("class000", "class001", "class002")
    assert (splits.image_size, splits.in_channels, splits.num_classes) == (16, 3, 3)
    assert splits.augmentation == ShiftFlip(padding=2)
    assert splits.evaluation is None
    assert splits.validation is None
    assert splits.train.images.shape == (6, 3, 16, 16)


def test_resized_images_as_imagenet_is_used(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", labelled(side=40, splits=("train", "val")))
    splits = data.load(config(path, image_size=28))
    assert splits.train.images.shape == (4, 3, 32, 32)
    assert splits.augmentation == ResizedCrop(size=28)
    assert splits.evaluation == CentreCrop(size=28)
    assert splits.image_size == 28
    loader = data.BatchLoader(splits.test, 4, train=False, transform=splits.test_transform)
    images, _ = next(iter(loader))
    middle = splits.test.images[..., 2:30, 2:30].double() / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (splits.mean, splits.std))
    torch.testing.assert_close(images.double(), (middle - mean) / std, rtol=0, atol=1e-6)
    train = data.BatchLoader(splits.train, 4, train=True, transform=splits.train_transform)
    assert next(iter(train))[0].shape == (4, 3, 28, 28)


def test_a_split_val_beside_test_is_for_validation(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", labelled(side=8, splits=("train", "val", "test")))
    splits = data.load(config(path))
    assert splits.validation is not None
    assert torch.equal(splits.validation.images[0], torch.from_numpy(pixels(4, 8)))
    assert torch.equal(splits.test.images[0], torch.from_numpy(pixels(8, 8)))
    with pytest.raises(ConfigError, match="`validation` must be 0 for a data set that has a split"):
        data.load(config(path, validation=0.5))


def test_rejects(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", labelled(splits=("train",)))
    with pytest.raises(ArtifactError, match="must hold a split named test or val, got train"):
        data.load(config(path))
    wide = png(pixels(0, 8)[:, :4])
    path = write_zip(tmp_path / "b.zip", {"train/a/1.png": wide, "test/a/1.png": wide})
    with pytest.raises(
        ArtifactError, match=r"images must be square where .* is not given, got 8 x"
    ):
        data.load(config(path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        DataError, match=r"no image_folder found in .*empty: looked for a folder wi"
    ):
        data.load(config(tmp_path / "empty"))
