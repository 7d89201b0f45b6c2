"""The 1,797 handwritten digits that come with scikit-learn: grey, 8 x 8, 17 levels.

A fifth of every class is the test set, always the same images. Training shifts digits by up to one
pixel and never flips them.

References:
    Alpaydin and Kaynak, UCI machine learning repository, doi:10.24432/C50P49.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mulfree.data.config import DataConfig, SetConfig
from mulfree.data.samples import DataSplits, ImageSet, Progress
from mulfree.data.splits import hold_out
from mulfree.data.transforms import ShiftFlip

Config = SetConfig


def _read() -> tuple[Tensor, Tensor]:
    """Images `[1797, 1, 8, 8]` with levels 0..16 scaled to 0..255, and labels `[1797]`."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    levels = torch.from_numpy(bunch.images).unsqueeze(1)
    return (levels * (255 / 16)).round().to(torch.uint8), torch.from_numpy(bunch.target).long()


def load(config: DataConfig, options: SetConfig, progress: Progress | None) -> DataSplits:
    """Four fifths for training, the rest for testing."""
    images = ImageSet(*_read())
    train, test = hold_out(images.labels, 0.2)
    return DataSplits(
        train=images.subset(train),
        test=images.subset(test),
        classes=tuple("0123456789"),
        image_size=8,
        mean=(0.3054,),
        std=(0.3757,),
        augmentation=ShiftFlip(padding=1, flip=False),
    )
