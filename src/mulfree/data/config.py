"""Configuration of the data: set, source, batches, augmentation."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal, get_args

from mulfree.data.containers.bounds import Bounds
from mulfree.errors import ConfigError, choices_message, quoted
from mulfree.files import expand_paths

Augment = Literal["default", "none", "autoaugment_cifar", "autoaugment_imagenet"]

SET_OPTIONS = ("image_size", "classes")
"""Fields of `DataConfig` that belong to the `Config` of some sets; None stands for not given."""

COMMON_OPTIONS = ("image_size",)
"""Options that `mulfree.data.load` applies to a set whose `Config` lacks them."""

# Far above any number of images, classes or pixels.
_MAX_COUNT = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class SetConfig:
    """Options of one data set; this base is for sets that have none.

    A field of a subclass is also one of `DataConfig`, listed in `SET_OPTIONS`.
    """


@dataclass(frozen=True, kw_only=True)
class DataConfig(Bounds):
    """The data of a run; `mulfree.data.load` reads it.

    Raises:
        ConfigError: A value is outside the range of its field.
    """

    name: str = "digits"
    """Data set: one of `mulfree.data.SETS`."""

    root: str | None = None
    """File of the data set, or folder that holds it. Default: the variable MULFREE_DATA."""

    batch_size: int = 128
    """Training images per step, of all processes together."""

    eval_batch_size: int = 512
    """Images per step and process when only evaluating."""

    augment: Augment = "default"
    """`default`: the papers' augmentation for this data set; `none`: no augmentation;
    `autoaugment_cifar`, `autoaugment_imagenet`: default, then AutoAugment with the policy learned
    on that data set, for colour images."""

    image_size: int | None = None
    """Side of the network's input (224 for ImageNet; default: the size of the images, which must
    all be equal). Sets of images of one size are resized to it as a whole."""

    classes: int | None = None
    """Number of classes of the synthetic data set (default 10)."""

    limit: int | None = None
    """Number of training images, the same ones every time and as balanced as the classes allow.
    Default: all."""

    fraction: float = 1.0
    """Fraction of the training images of every class, at least one image each, after the hold-out
    for validation. The images that are left out have no use."""

    per_class: int | None = None
    """Number of training images of every class, after the hold-out, for few-shot training; instead
    of `fraction`. Default: all."""

    subset_seed: int = 0
    """Choice of the images of `fraction` and `per_class`; the hold-out for validation does not
    depend on it."""

    repeat: int = 1
    """Times that every training image is in an epoch, each time with an augmentation of its own:
    epochs of a handful of images would be a step each."""

    mean: tuple[float, ...] | None = None
    """Mean of pixels scaled to 0..1, subtracted before they are divided by `std`: a number for each
    channel, or one for all. Default: the mean of the data set. A pretrained network needs the
    statistics of its own training."""

    std: tuple[float, ...] | None = None
    """Standard deviation of pixels scaled to 0..1, likewise."""

    validation: float = 0.0
    """Fraction of the training images held out for validation, the same ones every time."""

    drop_last: bool = True
    """Leave out the last training batch of an epoch if it is smaller than the others."""

    cache: str | None = None
    """Folder for decoded images. Default: the variable MULFREE_CACHE, or ~/.cache/mulfree."""

    def __post_init__(self) -> None:
        super().__post_init__()
        expand_paths("DataConfig", self, "root", "cache")
        if self.augment not in get_args(Augment):
            raise ConfigError(
                choices_message("DataConfig", "augment", self.augment, get_args(Augment))
            )
        optional_counts = ("image_size", "classes", "limit", "per_class")
        for field in ("batch_size", "eval_batch_size", "repeat", *optional_counts):
            value = getattr(self, field)
            optional = field in optional_counts
            if value is None and optional:
                continue
            if type(value) is not int or value < 1:
                raise ConfigError(
                    f"DataConfig: `{field}` must be a positive integer, got {quoted(value)}"
                )
            if value > _MAX_COUNT:
                raise ConfigError(
                    f"DataConfig: `{field}` must be at most {_MAX_COUNT}, got {quoted(value)}"
                )
        if not 0.0 < self.fraction <= 1.0:
            raise ConfigError(
                f"DataConfig: `fraction` must be above 0 and at most 1, got {self.fraction}"
            )
        if self.per_class is not None and self.fraction != 1.0:
            raise ConfigError(
                f"DataConfig: `fraction` must be 1 with per_class, got {self.fraction}"
            )
        if type(self.subset_seed) is not int or not 0 <= self.subset_seed <= _MAX_COUNT:
            raise ConfigError(
                f"DataConfig: `subset_seed` must be an integer from 0 to {_MAX_COUNT}, "
                f"got {quoted(self.subset_seed)}"
            )
        self._check_statistics()
        if not 0.0 <= self.validation < 1.0:
            raise ConfigError(
                f"DataConfig: `validation` must be at least 0 and below 1, got {self.validation}"
            )

    def _check_statistics(self) -> None:
        if (self.mean is None) != (self.std is None):
            missing, given = ("mean", "std") if self.mean is None else ("std", "mean")
            raise ConfigError(f"DataConfig: `{missing}` must be given with {given}, got None")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and not all(map(math.isfinite, values)):
                raise ConfigError(f"DataConfig: `{name}` must be finite, got {quoted(values)}")

    def options(self, kind: type[SetConfig]) -> SetConfig:
        """Options of the data set, as its config class.

        Raises:
            ConfigError: An option is given that the set does not have, or a bad value.
        """
        known = {field.name for field in fields(kind)}
        given = {name: getattr(self, name) for name in SET_OPTIONS}
        given = {name: value for name, value in given.items() if value is not None}
        for name, value in given.items():
            if name not in known and name not in COMMON_OPTIONS:
                raise ConfigError(
                    f"data.load: `{name}` must not be given for {self.name}, got {value}"
                )
        return kind(**{name: value for name, value in given.items() if name in known})
