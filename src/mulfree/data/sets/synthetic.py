"""Synthetic images that a network can learn to classify: for tests and dry runs, no file needed.

Every class is a smooth random pattern; an image is the pattern of its class plus noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from mulfree.data.config import DataConfig, SetConfig
from mulfree.data.samples import DataSplits, ImageSet, Progress
from mulfree.data.transforms import ShiftFlip
from mulfree.errors import ConfigError

_TRAIN, _TEST = 1024, 256
# Pixels per channel of all images together, which are in memory at once.
_MAX_PIXELS = 2**27


@dataclass(frozen=True, kw_only=True)
class Config(SetConfig):
    """Options of the synthetic images.

    Attributes:
        image_size: Height and width.
        classes: Number of classes.

    Raises:
        ConfigError: The images would not fit into memory.
    """

    image_size: int = 32
    classes: int = 10

    def __post_init__(self) -> None:
        if max(_TRAIN + _TEST, self.classes) * self.image_size**2 > _MAX_PIXELS:
            raise ConfigError(
                f"data.load: `image_size` must give synthetic images of at most {_MAX_PIXELS} "
                f"pixels together, got {self.image_size} with {self.classes} classes"
            )


def make_synthetic(
    *,
    train: int = _TRAIN,
    test: int = _TEST,
    classes: int = 10,
    channels: int = 3,
    image_size: int = 32,
    seed: int = 0,
) -> DataSplits:
    """Make a data set; equal arguments give equal images.

    Args:
        train: Number of training images.
        test: Number of test images.
        classes: Number of classes; labels repeat cyclically.
        channels: C.
        image_size: H and W.
        seed: Determines patterns and noise.
    """
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(classes, channels, 4, 4, generator=generator)
    shape = (image_size, image_size)
    patterns = functional.interpolate(coarse, shape, mode="bilinear", align_corners=False)

    def part(count: int) -> ImageSet:
        labels = torch.arange(count) % classes
        noise = torch.randn(count, channels, *shape, generator=generator)
        pixels = 128 + 40 * patterns[labels] + 25 * noise
        return ImageSet(pixels.round().clamp(0, 255).to(torch.uint8), labels)

    return DataSplits(
        train=part(train),
        test=part(test),
        classes=tuple(f"class {label}" for label in range(classes)),
        image_size=image_size,
        mean=(0.5,) * channels,
        std=(0.2,) * channels,
        augmentation=ShiftFlip(padding=image_size // 16, flip=False),
    )


def load(config: DataConfig, options: Config, progress: Progress | None) -> DataSplits:
    """Make the images with the default seed."""
    return make_synthetic(classes=options.classes, image_size=options.image_size)
