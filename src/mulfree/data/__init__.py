"""Labelled images: data sets, augmentation, and batches in a reproducible order.

A data set is one file here that makes a `Dataset`, and one line in `DATASETS`.
"""

from __future__ import annotations

from dataclasses import replace

from mulfree.data.config import Augment as Augment
from mulfree.data.config import DataConfig as DataConfig
from mulfree.data.loader import BatchLoader as BatchLoader
from mulfree.data.samples import Dataset as Dataset
from mulfree.data.samples import DataSplits as DataSplits
from mulfree.data.samples import ImageSet as ImageSet
from mulfree.data.samples import Progress as Progress
from mulfree.data.sets.cifar import CIFAR10, CIFAR100
from mulfree.data.sets.digits import DIGITS
from mulfree.data.sets.fashion_mnist import FASHION_MNIST
from mulfree.data.sets.image_folder import IMAGE_FOLDER
from mulfree.data.sets.synthetic import SYNTHETIC
from mulfree.data.sets.synthetic import make_synthetic as make_synthetic
from mulfree.data.splits import balanced, hold_out
from mulfree.data.transforms import Augmentation as Augmentation
from mulfree.data.transforms import CentreCrop as CentreCrop
from mulfree.data.transforms import ResizedCrop as ResizedCrop
from mulfree.data.transforms import ShiftFlip as ShiftFlip
from mulfree.data.transforms import Transform as Transform
from mulfree.errors import ConfigError, choices_message

DATASETS: dict[str, Dataset] = {
    "digits": DIGITS,
    "fashion_mnist": FASHION_MNIST,
    "cifar10": CIFAR10,
    "cifar100": CIFAR100,
    "image_folder": IMAGE_FOLDER,
    "synthetic": SYNTHETIC,
}

_SPECIAL_OPTIONS = ("image_size", "classes")


def load(config: DataConfig, progress: Progress | None = None) -> DataSplits:
    """Read the data set that `config` names, divided and augmented as it says.

    Args:
        config: The data set and its options.
        progress: Told the finished share, 0 to 1, while images are decoded into the cache.

    Raises:
        ConfigError: If the name is unknown or an option does not fit the data set.
        DataError: If the data set is not there.
        ArtifactError: If a file is damaged, hostile or not what it claims.
        OSError: If the cache cannot be written, or a file or folder not be read.
    """
    if config.name not in DATASETS:
        raise ConfigError(choices_message("data.load", "name", config.name, DATASETS))
    dataset = DATASETS[config.name]
    for option in _SPECIAL_OPTIONS:
        value = getattr(config, option)
        if value is not None and option not in dataset.options:
            raise ConfigError(
                f"data.load: `{option}` must not be given for {config.name}, got {value}"
            )
    splits = dataset.load(config, progress)
    if config.augment == "none":
        splits = replace(splits, augmentation=splits.evaluation)
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
    if config.limit is not None:
        if config.limit > len(splits.train):
            raise ConfigError(
                f"data.load: `limit` must be at most the {len(splits.train)} training images, "
                f"got {config.limit}"
            )
        splits = replace(
            splits, train=splits.train.subset(balanced(splits.train.labels, config.limit))
        )
    return splits
