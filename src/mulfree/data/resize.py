"""Resizing of a whole data set, for networks of another resolution."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.nn import functional

from mulfree.data.samples import DataSplits, ImageSet
from mulfree.data.transforms import ShiftFlip
from mulfree.errors import ConfigError

# Values of all images of a set, which are in memory at once.
_MAX_VALUES = 2**32
# Images converted to float at a time.
_CHUNK = 1024


def resized(splits: DataSplits, side: int) -> DataSplits:
    """Resize all images to `side` x `side` pixels, bilinearly and with antialiasing.

    The shifts of the augmentation grow with the images.

    Args:
        splits: Square images of one size.
        side: Height and width.

    Raises:
        ConfigError: The images would not fit into memory.
    """
    if side == splits.image_size:
        return splits
    count = len(splits.train) + len(splits.test)
    if count * splits.in_channels * side**2 > _MAX_VALUES:
        raise ConfigError(
            f"data.load: `image_size` must give at most {_MAX_VALUES} values in all {count} images "
            f"together, got {side}"
        )
    augmentation = splits.augmentation
    if isinstance(augmentation, ShiftFlip):
        padding = round(augmentation.padding * side / splits.image_size)
        augmentation = replace(augmentation, padding=padding)
    return replace(
        splits,
        train=_resized(splits.train, side),
        test=_resized(splits.test, side),
        image_size=side,
        augmentation=augmentation,
    )


def _resized(images: ImageSet, side: int) -> ImageSet:
    images.verify()
    resized = torch.empty((*images.images.shape[:2], side, side), dtype=torch.uint8)
    for start in range(0, len(images), _CHUNK):
        part = images.images[start : start + _CHUNK].float()
        part = functional.interpolate(part, (side, side), mode="bilinear", antialias=True)
        resized[start : start + _CHUNK] = part.round_().clamp_(0, 255)
    return ImageSet(resized, images.labels)
