"""Labelled images in a tree `split/class/image`: a folder, .tar (.gz, .xz, .bz2) or .zip.

With `image_size` S the shorter side is resized to 8/7 S (256 for 224), followed by a square centre
crop; training uses random resized crops of it, evaluation the centre S x S. Without `image_size`
all images must have one size and are augmented like CIFAR.

References:
    He et al., arXiv 1512.03385, section 3.4, for training and test crops of ImageNet.
"""

from __future__ import annotations

from dataclasses import dataclass

from mulfree.data.config import DataConfig, SetConfig
from mulfree.data.containers.locate import locate
from mulfree.data.formats.image_tree import load_image_tree
from mulfree.data.samples import DataSplits, Progress
from mulfree.data.transforms import Augmentation, CentreCrop, ResizedCrop, ShiftFlip
from mulfree.errors import ArtifactError, ConfigError


@dataclass(frozen=True, kw_only=True)
class Config(SetConfig):
    """Options of an image folder.

    Attributes:
        image_size: Side of the network's input; None for images of one size.
    """

    image_size: int | None = None


def load(config: DataConfig, options: Config, progress: Progress | None) -> DataSplits:
    """Read the image tree.

    Raises:
        DataError: There is no such folder or archive.
        ArtifactError: An image or the archive is damaged, hostile, or a split is missing.
        ConfigError: A validation split is requested beside the one on disk.
    """
    path = locate(
        config.name,
        config.root,
        names=(),
        markers=("train", "training"),
        get="make folders train/class/image and test/class/image (or an archive of them)",
    )
    size = options.image_size
    side = None if size is None else round(size * 256 / 224)
    classes, splits = load_image_tree(path, config, progress, side=side)
    evaluated = splits.get("test", splits.get("val"))
    if evaluated is None:
        raise ArtifactError(f"data.load: {path} must hold a split named test or val, got train")
    validation = splits.get("val") if "test" in splits else None
    if validation is not None and config.validation:
        raise ConfigError(
            f"data.load: `validation` must be 0 for a data set that has a split val, "
            f"got {config.validation}"
        )
    height, width = splits["train"].images.shape[-2:]
    if height != width:
        raise ArtifactError(
            f"data.load: {path}: images must be square where `image_size` is not given, "
            f"got {width} x {height}"
        )
    augmentation: Augmentation
    if size is None:
        augmentation, evaluation = ShiftFlip(padding=height // 8), None
    else:
        augmentation, evaluation = ResizedCrop(size=size), CentreCrop(size=size)
    return DataSplits(
        train=splits["train"],
        test=evaluated,
        validation=validation,
        classes=classes,
        image_size=size or height,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        augmentation=augmentation,
        evaluation=evaluation,
    )
