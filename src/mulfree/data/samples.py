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
"""Called with numbers of images before these are read."""

Progress = Callable[[float], None]
"""Called with the finished fraction, 0 to 1, while images are decoded."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images and their labels.

    Args:
        images: `[N, C, H, W]`, uint8.
        labels: `[N]`, int64.
        mapped: Whether the images lie in a file and are read when they are indexed.
        check: Given numbers of images before they are read, raises if the file is damaged; called
            by all methods and by `BatchLoader`. Call `verify` before indexing `images` itself.

    Raises:
        ShapeError: If the ranks are wrong or the counts differ.
        DTypeError: If a dtype is wrong.
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
        """Check the images numbered `rows`, or all, against the digests kept with their file.

        Each is compared once, when it is first read; images in memory are not.

        Raises:
            ArtifactError: If one is damaged.
        """
        if self.check is not None:
            self.check(np.arange(len(self)) if rows is None else rows.numpy())

    def subset(self, rows: Tensor) -> ImageSet:
        """A copy of the images numbered `rows`, in that order."""
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
    """A data set as a training run uses it.

    Attributes:
        train: Images to learn from.
        test: Images to report on.
        validation: Images to choose by, where the data set or the configuration provides them.
        classes: Class names; label `k` means `classes[k]`.
        image_size: Side of the images that the transforms return.
        mean: Per channel, of pixels scaled to 0..1; subtracted by the transforms.
        std: Per channel, likewise; divided by.
        augmentation: What `train_transform` does to the images before normalising them.
        evaluation: What `test_transform` does; None for nothing.

    Raises:
        ArtifactError: If a label is not the number of a class.
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
        """Normalises batches without chance."""
        return Transform(mean=self.mean, std=self.std, augmentation=self.evaluation)
