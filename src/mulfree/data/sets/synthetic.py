"""Made-up images that a network can learn to tell apart: for tests and dry runs, no file needed.

Every class is a smooth random pattern; an image is its class's pattern plus noise.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from mulfree.data.config import DataConfig
from mulfree.data.samples import Dataset, DataSplits, ImageSet, Progress
from mulfree.data.transforms import ShiftFlip


def make_synthetic(
    *,
    train: int = 1024,
    test: int = 256,
    classes: int = 10,
    channels: int = 3,
    image_size: int = 32,
    seed: int = 0,
) -> DataSplits:
    """A data set of the size asked for; the same arguments give the same images.

    Args:
        train: Number of training images.
        test: Number of test images.
        classes: Number of classes; labels go round.
        channels: C.
        image_size: H and W.
        seed: Decides patterns and noise.
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


def _load(config: DataConfig, progress: Progress | None) -> DataSplits:
    return make_synthetic(classes=config.classes or 10, image_size=config.image_size or 32)


SYNTHETIC = Dataset(load=_load, options=frozenset({"classes", "image_size"}))
