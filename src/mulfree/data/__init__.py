"""Labelled images: data sets, augmentation, and batches in a reproducible order.

`sets` name files, classes and statistics, `formats` turn bytes into samples, and `containers` read
untrusted folders and archives.
"""

from __future__ import annotations

from dataclasses import replace

from mulfree.data.auto_augment import AutoAugment as AutoAugment
from mulfree.data.config import Augment as Augment
from mulfree.data.config import DataConfig as DataConfig
from mulfree.data.loader import BatchLoader as BatchLoader
from mulfree.data.resize import resized
from mulfree.data.samples import DataSplits as DataSplits
from mulfree.data.samples import ImageSet as ImageSet
from mulfree.data.samples import Progress as Progress
from mulfree.data.sets import SETS as SETS
from mulfree.data.sets import get_set
from mulfree.data.sets.synthetic import make_synthetic as make_synthetic
from mulfree.data.splits import balanced, few_shot, hold_out, stratified
from mulfree.data.transforms import Augmentation as Augmentation
from mulfree.data.transforms import CentreCrop as CentreCrop
from mulfree.data.transforms import ResizedCrop as ResizedCrop
from mulfree.data.transforms import ShiftFlip as ShiftFlip
from mulfree.data.transforms import Transform as Transform
from mulfree.errors import ConfigError


def load(config: DataConfig, progress: Progress | None = None) -> DataSplits:
    """Read a data set and apply resizing, hold-out, limit and augmentation.

    Args:
        config: Name and options of the data set.
        progress: Called with the finished share, 0 to 1, while images are decoded into the cache.

    Raises:
        ConfigError: The name is unknown or an option does not fit the data set.
        DataError: The data set is not found.
        ArtifactError: A file is damaged, hostile or in another format.
        OSError: The cache cannot be written, or a file or folder cannot be read.
    """
    dataset = get_set(config.name)
    splits = dataset.load(config, config.options(dataset.Config), progress)
    if config.image_size is not None and splits.image_size != config.image_size:
        splits = resized(splits, config.image_size)
    if config.augment == "none":
        splits = replace(splits, augmentation=splits.evaluation)
    elif config.augment != "default":
        splits = _auto_augmented(splits, config.augment.removeprefix("autoaugment_"))
    if config.validation:
        kept, held = hold_out(splits.train.labels, config.validation)
        if not len(kept) or not len(held):
            raise ConfigError(
                "data.load: `validation` must leave images both in and out of training, got "
                f"{config.validation} of {len(splits.train)} images"
            )
        splits = replace(
            splits, train=splits.train.subset(kept), validation=splits.train.subset(held)
        )
    if config.fraction < 1:
        rows = stratified(splits.train.labels, config.fraction, config.subset_seed)
        splits = replace(splits, train=splits.train.subset(rows))
    if config.per_class is not None:
        rows = few_shot(splits.train.labels, splits.classes, config.per_class, config.subset_seed)
        splits = replace(splits, train=splits.train.subset(rows))
    if config.limit is not None:
        if config.limit > len(splits.train):
            raise ConfigError(
                f"data.load: `limit` must be at most the {len(splits.train)} training images, "
                f"got {config.limit}"
            )
        splits = replace(
            splits, train=splits.train.subset(balanced(splits.train.labels, config.limit))
        )
    if config.mean is not None and config.std is not None:
        channels = splits.in_channels
        mean, std = (
            _per_channel(name, values, channels)
            for name, values in (("mean", config.mean), ("std", config.std))
        )
        splits = replace(splits, mean=mean, std=std)
    return splits


def _auto_augmented(splits: DataSplits, policy: str) -> DataSplits:
    """Add AutoAugment to the augmentation.

    Raises:
        ConfigError: The images are not in colour.
    """
    if splits.in_channels != 3:
        raise ConfigError(
            f"data.load: `augment` must be default or none for images of {splits.in_channels} "
            f"channels, got autoaugment_{policy}"
        )
    first = splits.augmentation or splits.evaluation
    return replace(splits, augmentation=AutoAugment(policy=policy, first=first))


def _per_channel(name: str, values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Statistic of each channel, from one of each or one for all.

    Raises:
        ConfigError: Another number of values.
    """
    if len(values) not in (1, channels):
        raise ConfigError(
            f"data.load: `{name}` must hold one number for each of the {channels} channels, or one "
            f"for all, got {len(values)}"
        )
    return values if len(values) == channels else values * channels
