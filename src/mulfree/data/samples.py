"""Labelled images, and the splits of a data set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mulfree.data.transforms import Augmentation, Transform
from mulfree.errors import ArtifactError, DTypeError, ShapeError

Check = Callable[[NDArray[np.int64]], None]
"""Called with the indices of images before they are read."""

Progress = Callable[[float], None]
"""Called with the finished fraction, 0 to 1, while images are decoded."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images and their labels.

    Args:
        images: `[N, C, H, W]`, uint8.
        labels: `[N]`, int64.
        mapped: Whether `images` is a memory-mapped file, read on indexing.
        check: Raises if images of the file are damaged; called with their indices before a read by
            all methods and by `BatchLoader`. Call `verify` before indexing `images` directly.

    Raises:
        ShapeError: A rank is wrong or the counts differ.
        DTypeError: A dtype is wrong.
    """

    images: Tensor
    labels: Tensor
    mapped: bool = field(default=False, kw_only=True)
    check: Check | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.images.dim() != 4:
            raise ShapeError(
                f"ImageSet: `images` must have shape [N, C, H, W], got {list(self.images.shape)}"
            )
        if self.labels.shape != self.images.shape[:1]:
            raise ShapeError(
                f"ImageSet: `labels` must have shape [{len(self.images)}], one per image, "
                f"got {list(self.labels.shape)}"
            )
        for name, tensor, dtype in (
            ("images", self.images, torch.uint8),
            ("labels", self.labels, torch.int64),
        ):
            if tensor.dtype != dtype:
                raise DTypeError(f"ImageSet: `{name}` must be {dtype}, got {tensor.dtype}")

    def __len__(self) -> int:
        return len(self.labels)

    def verify(self, rows: Tensor | None = None) -> None:
        """Compare the images `rows`, or all, with the digests stored beside their file.

        Each image is compared once, on its first read; images in memory are not compared.

        Raises:
            ArtifactError: An image is damaged.
        """
        if self.check is not None:
            self.check(np.arange(len(self)) if rows is None else rows.numpy())

    def subset(self, rows: Tensor) -> ImageSet:
        """Copy of the images `rows`, in that order."""
        self.verify(rows)
        return ImageSet(self.images[rows], self.labels[rows])

    def to(self, device: torch.device | str) -> ImageSet:
        """The same set on another device."""
        if torch.device(device).type != self.images.device.type:
            self.verify()
        images = self.images.to(device)
        if images is self.images:
            return replace(self, labels=self.labels.to(device))
        return ImageSet(images, self.labels.to(device))


@dataclass(frozen=True, kw_only=True, eq=False)
class DataSplits:
    """Splits of a data set, with statistics and transforms.

    Attributes:
        train: Training images.
        test: Test images.
        validation: Held-out images, if the data set or the configuration provides them.
        classes: Class names; label `k` means `classes[k]`.
        image_size: Side of the images returned by the transforms.
        mean: Per channel, of pixels scaled to 0..1.
        std: Per channel, likewise.
        augmentation: Augmentation in `train_transform`, before normalisation.
        evaluation: Geometry change in `test_transform`; None for none.

    Raises:
        ArtifactError: A label is outside the classes.
    """

    train: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    validation: ImageSet | None = None
    augmentation: Augmentation | None = None
    evaluation: Augmentation | None = None

    def __post_init__(self) -> None:
        for name, part in (
            ("train", self.train),
            ("test", self.test),
            ("validation", self.validation),
        ):
            if part is None or not len(part):
                continue
            low, high = int(part.labels.min()), int(part.labels.max())
            if low < 0 or high >= self.num_classes:
                raise ArtifactError(
                    f"data.load: `{name}` labels must lie in 0..{self.num_classes - 1}, "
                    f"got {low}..{high}"
                )

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def in_channels(self) -> int:
        """Channels of an image."""
        return int(self.train.images.shape[1])

    @property
    def train_transform(self) -> Transform:
        """Augments and normalises training batches."""
        return Transform(mean=self.mean, std=self.std, augmentation=self.augmentation)

    @property
    def test_transform(self) -> Transform:
        """Normalises test batches, without random numbers."""
        return Transform(mean=self.mean, std=self.std, augmentation=self.evaluation)
