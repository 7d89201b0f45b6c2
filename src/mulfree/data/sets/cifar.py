"""CIFAR-10 and CIFAR-100: 50,000 + 10,000 colour images 32 x 32.

Read from the authors' python batches (a folder or .tar.gz) or from an image archive
`split/class/image`; the images of the latter are usually JPEG-encoded again, so results differ
slightly.

References:
    Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch

from mulfree.data.classes import class_names
from mulfree.data.config import DataConfig
from mulfree.data.containers.archive import members
from mulfree.data.containers.locate import find
from mulfree.data.formats.cifar_pickle import read_batch, read_pickle
from mulfree.data.formats.image_tree import load_images
from mulfree.data.samples import Dataset, DataSplits, ImageSet, Progress
from mulfree.data.transforms import ShiftFlip
from mulfree.errors import ArtifactError, quoted


@dataclass(frozen=True, kw_only=True)
class _Variant:
    """How one of the two is published."""

    classes: int
    folder: str
    archive: str
    images: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    meta: str
    labels_key: str
    names_key: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def load(self, config: DataConfig, progress: Progress | None) -> DataSplits:
        endings = ("", ".tar.xz", ".tar.gz", ".tar", ".zip")
        path = find(
            config,
            names=(self.folder, self.archive, *(f"{self.images}{end}" for end in endings)),
            marks=(self.train[0],),
            get=f"get {self.archive} from https://www.cs.toronto.edu/~kriz/cifar.html",
        )
        if self._is_authors(path):
            train, test, classes = self._read_batches(path, progress)
        else:
            classes, splits = load_images(path, config, progress, side=None)
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

    def _is_authors(self, path: Path) -> bool:
        """Whether `path` holds the authors' batches rather than image files."""
        wanted = {*self.train, *self.test, self.meta}
        if path.is_dir():
            return any((path / name).is_file() for name in wanted)
        first = next(iter(members(path)), None)
        return first is not None and PurePosixPath(first.name).name in wanted

    def _read_batches(
        self, path: Path, progress: Progress | None
    ) -> tuple[ImageSet, ImageSet, tuple[str, ...]]:
        wanted = (*self.train, *self.test, self.meta)
        contents: dict[str, bytes] = {}
        for member in members(path, lambda name: PurePosixPath(name).name in wanted):
            if progress is not None:
                progress(member.done)
            contents[PurePosixPath(member.name).name] = member.data
        for name in wanted:
            if name not in contents:
                raise ArtifactError(f"data.load: {path} must hold the file {name}")

        def part(names: tuple[str, ...]) -> ImageSet:
            read = [
                read_batch(contents[name], f"{path}: member {quoted(name)}", self.labels_key)
                for name in names
            ]
            return ImageSet(
                torch.cat([images for images, _ in read]), torch.cat([labels for _, labels in read])
            )

        meta = read_pickle(contents[self.meta], f"{path}: member {quoted(self.meta)}")
        names = meta.get(self.names_key)
        if not isinstance(names, list) or not all(isinstance(name, bytes | str) for name in names):
            raise ArtifactError(
                f"data.load: {path}: member {quoted(self.meta)} must hold a list of names "
                f"`{self.names_key}`"
            )
        given = (name.decode("latin1") if isinstance(name, bytes) else name for name in names)
        classes = class_names(given, f"data.load: {path}: member {quoted(self.meta)}")
        return part(self.train), part(self.test), classes


CIFAR10 = Dataset(
    load=_Variant(
        classes=10,
        folder="cifar-10-batches-py",
        archive="cifar-10-python.tar.gz",
        images="cifar10-images",
        train=tuple(f"data_batch_{number}" for number in range(1, 6)),
        test=("test_batch",),
        meta="batches.meta",
        labels_key="labels",
        names_key="label_names",
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2023, 0.1994, 0.2010),
    ).load
)
CIFAR100 = Dataset(
    load=_Variant(
        classes=100,
        folder="cifar-100-python",
        archive="cifar-100-python.tar.gz",
        images="cifar100-images",
        train=("train",),
        test=("test",),
        meta="meta",
        labels_key="fine_labels",
        names_key="fine_label_names",
        mean=(0.5071, 0.4867, 0.4408),
        std=(0.2675, 0.2565, 0.2761),
    ).load
)
