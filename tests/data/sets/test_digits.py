from __future__ import annotations

import torch
from sklearn.datasets import load_digits

from mulfree import data
from mulfree.data import DataConfig, ShiftFlip


def test_every_digit_once_and_a_fifth_of_each_class_for_test() -> None:
    splits = data.load(DataConfig())
    assert (len(splits.train), len(splits.test)) == (1438, 359)
    assert splits.test.labels.bincount().tolist() == [36, 36, 35, 37, 36, 36, 36, 36, 35, 36]
    assert splits.test.labels[:12].tolist() == [2, 3, 5, 1, 5, 8, 8, 0, 6, 9, 1, 4]
    levels = torch.cat([splits.train.images, splits.test.images]).double() * 16 / 255
    got = sorted(image.round().int().flatten().tolist() for image in levels)
    assert got == sorted(load_digits().images.astype(int).reshape(-1, 64).tolist())
    assert splits.augmentation == ShiftFlip(padding=1, flip=False)


def test_normalised_to_mean_0_and_deviation_1() -> None:
    splits = data.load(DataConfig())
    images = splits.test_transform(splits.train.images, torch.zeros(1438, 0)).double()
    assert abs(images.mean()) < 1e-3
    assert abs(images.std() - 1) < 1e-3
