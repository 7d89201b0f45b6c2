"""What a user says about the data: which set, from where, in which batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from mulfree.data.containers.bounds import Bounds
from mulfree.errors import ConfigError, choices_message, quoted
from mulfree.files import expand_paths

Augment = Literal["default", "none"]

# Numbers above it are no numbers of images, of classes or of pixels.
_MAX_COUNT = 2**31 - 1
# Pixels of one colour of all made-up images, which are in memory together.
_MAX_SYNTHETIC = 2**27
_SYNTHETIC_IMAGES = 1280


@dataclass(frozen=True, kw_only=True)
class DataConfig(Bounds):
    """The data of a run. `mulfree.data.load` turns it into images and labels.

    Raises:
        ConfigError: If a value is outside what its field allows.
    """

    name: str = "digits"
    """Data set: one of `mulfree.data.DATASETS`."""

    root: str | None = None
    """File of the data set, or folder that holds it. Default: the variable MULFREE_DATA."""

    batch_size: int = 128
    """Training images per step, of all processes together."""

    eval_batch_size: int = 512
    """Images per step and process when only evaluating."""

    augment: Augment = "default"
    """`default`: what the papers do with this data set in training; `none`: nothing."""

    image_size: int | None = None
    """Side of the images the network gets: image_folder (224 for ImageNet; default: the images'
    own size, which must then be one and the same) and synthetic (default 32)."""

    classes: int | None = None
    """Number of classes of the synthetic data set (default 10)."""

    limit: int | None = None
    """Train on this many images only, the same ones every time and as balanced as the classes
    allow. Default: all."""

    validation: float = 0.0
    """Fraction of the training images held out, the same ones every time, so that choices are
    not made on the test images."""

    drop_last: bool = True
    """Leave out the last training batch of an epoch where it would be smaller than the others."""

    cache: str | None = None
    """Folder for decoded images. Default: the variable MULFREE_CACHE, or ~/.cache/mulfree."""

    def __post_init__(self) -> None:
        super().__post_init__()
        expand_paths("DataConfig", self, "root", "cache")
        if self.augment not in get_args(Augment):
            raise ConfigError(
                choices_message("DataConfig", "augment", self.augment, get_args(Augment))
            )
        for field in ("batch_size", "eval_batch_size", "image_size", "classes", "limit"):
            value = getattr(self, field)
            optional = field not in ("batch_size", "eval_batch_size")
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
        if not 0.0 <= self.validation < 1.0:
            raise ConfigError(
                f"DataConfig: `validation` must be at least 0 and below 1, got {self.validation}"
            )
        if self.name == "synthetic":
            self._check_synthetic()

    def _check_synthetic(self) -> None:
        pixels = max(_SYNTHETIC_IMAGES, self.classes or 0) * (self.image_size or 0) ** 2
        if pixels > _MAX_SYNTHETIC:
            raise ConfigError(
                f"DataConfig: `image_size` must give made-up images of at most {_MAX_SYNTHETIC} "
                f"pixels together, got {self.image_size} with {self.classes or 10} classes"
            )
