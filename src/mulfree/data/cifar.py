"""Loading shared by the data sets cifar10 and cifar100: 50,000 + 10,000 colour images 32 x 32.

The source is the authors' python batches (a folder or .tar.gz) or an image tree
`split/class/image`; images of the latter are usually re-encoded as JPEG, which changes results
slightly.

References:
    Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

from __future__ import annotations

from dataclasses import dataclass

from mulfree.data.config import DataConfig, SetConfig
from mulfree.data.containers.locate import locate
from mulfree.data.formats.cifar_pickle import CifarFiles
from mulfree.data.formats.image_tree import load_image_tree
from mulfree.data.samples import DataSplits, Progress
from mulfree.data.transforms import ShiftFlip
from mulfree.errors import ArtifactError

_IMAGE_ENDINGS = ("", ".tar.xz", ".tar.gz", ".tar", ".zip")


@dataclass(frozen=True, kw_only=True)
class CifarVariant:
    """Files, classes and statistics of one of the two sets.

    Attributes:
        classes: Number of classes.
        folder: Folder of the authors' batches.
        archive: Their archive.
        images: Folder of an image tree, or an archive of it without its ending.
        files: The authors' batches.
        mean: Per channel, of pixels scaled to 0..1.
        std: Per channel, likewise.
    """

    classes: int
    folder: str
    archive: str
    images: str
    files: CifarFiles
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def load(self, config: DataConfig, options: SetConfig, progress: Progress | None) -> DataSplits:
        """Read the set in either format.

        Raises:
            DataError: The set is not found.
            ArtifactError: A file is damaged, hostile or not of this set.
        """
        path = locate(
            config.name,
            config.root,
            names=(self.folder, self.archive, *(f"{self.images}{end}" for end in _IMAGE_ENDINGS)),
            markers=(self.files.train[0],),
            get=f"get {self.archive} from https://www.cs.toronto.edu/~kriz/cifar.html",
        )
        if self.files.found_in(path):
            train, test, classes = self.files.read(path, progress)
        else:
            classes, splits = load_image_tree(path, config, progress, side=None)
            if set(splits) != {"train", "test"}:
                raise ArtifactError(
                    f"data.load: {path} must hold the splits train and test, "
                    f"got {', '.join(sorted(splits))}"
                )
            train, test = splits["train"], splits["test"]
        if train.images.shape[1:] != (3, 32, 32):
            raise ArtifactError(
                f"data.load: {path} must hold images of shape [3, 32, 32] for {config.name}, "
                f"got {list(train.images.shape[1:])}"
            )
        if len(classes) != self.classes:
            raise ArtifactError(
                f"data.load: {path} must hold {self.classes} classes for {config.name}, "
                f"got {len(classes)}"
            )
        return DataSplits(
            train=train,
            test=test,
            classes=classes,
            image_size=32,
            mean=self.mean,
            std=self.std,
            augmentation=ShiftFlip(padding=4),
        )
