"""Fashion-MNIST: 60,000 + 10,000 grey images 28 x 28 of ten kinds of clothing.

References:
    Xiao et al., arXiv 1708.07747.
"""

from __future__ import annotations

from pathlib import Path

from mulfree.data.config import DataConfig, SetConfig
from mulfree.data.containers.locate import locate
from mulfree.data.formats.idx import read_idx
from mulfree.data.samples import DataSplits, ImageSet, Progress
from mulfree.data.transforms import ShiftFlip
from mulfree.errors import ArtifactError, DataError

Config = SetConfig

CLASSES = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
INSTALLED = (Path("/usr/share/datasets/fashion-mnist"),)
_ENDINGS = ("", ".gz")


def _file(folder: Path, name: str) -> Path:
    """Path of the idx file `name` in either spelling, compressed or not."""
    for spelling in (name, name.replace("-idx", ".idx")):
        for ending in _ENDINGS:
            if (folder / f"{spelling}{ending}").is_file():
                return folder / f"{spelling}{ending}"
    raise DataError(f"data.load: no {name} or {name}.gz in {folder}, which holds the others")


def _part(folder: Path, prefix: str) -> ImageSet:
    images_file = _file(folder, f"{prefix}-images-idx3-ubyte")
    labels_file = _file(folder, f"{prefix}-labels-idx1-ubyte")
    images, labels = read_idx(images_file, 3), read_idx(labels_file, 1)
    if images.shape[1:] != (28, 28):
        raise ArtifactError(
            f"data.load: {images_file} must have shape [N, 28, 28], got {list(images.shape)}"
        )
    if len(images) != len(labels) or not len(images):
        raise ArtifactError(
            f"data.load: {labels_file} must hold one label for each of the {len(images)} images "
            f"in {images_file.name}, got {len(labels)}"
        )
    return ImageSet(images.unsqueeze(1), labels.long())


def load(config: DataConfig, options: SetConfig, progress: Progress | None) -> DataSplits:
    """Read the four idx files.

    Raises:
        DataError: A file is missing.
        ArtifactError: A file is damaged, hostile or not of this set.
    """
    folder = locate(
        config.name,
        config.root,
        names=("fashion-mnist", "fashion_mnist", "FashionMNIST/raw"),
        markers=[f"train-images{dash}idx3-ubyte{end}" for dash in "-." for end in _ENDINGS],
        get="get the four idx files from https://github.com/zalandoresearch/fashion-mnist or "
        "install Debian's dataset-fashion-mnist",
        installed=INSTALLED,
    )
    if folder.is_file():
        folder = folder.parent
    return DataSplits(
        train=_part(folder, "train"),
        test=_part(folder, "t10k"),
        classes=CLASSES,
        image_size=28,
        mean=(0.2860,),
        std=(0.3530,),
        augmentation=ShiftFlip(padding=2),
    )
