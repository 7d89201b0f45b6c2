"""A small instance of every data set, for the contract of data sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.data.files import (
    cifar10,
    cifar100,
    cifar_batch,
    cifar_rows,
    fashion_mnist,
    labelled,
    write_folder,
    write_zip,
)

from mulfree.data import DataConfig


def _digits(folder: Path) -> DataConfig:
    return DataConfig(name="digits")


def _fashion_mnist(folder: Path) -> DataConfig:
    files = fashion_mnist(train=40, test=10, ending=".gz")
    return DataConfig(name="fashion_mnist", root=str(write_folder(folder / "idx", files)))


def _cifar10(folder: Path) -> DataConfig:
    write_folder(folder / "cifar-10-batches-py", cifar10())
    return DataConfig(name="cifar10", root=str(folder))


def _cifar100(folder: Path) -> DataConfig:
    train = cifar_batch(cifar_rows(0, 4), [5, 5, 99, 99], b"fine_labels")
    write_folder(folder / "cifar-100-python", {**cifar100(), "train": train})
    return DataConfig(name="cifar100", root=str(folder))


def _image_folder(folder: Path) -> DataConfig:
    path = write_zip(folder / "x.zip", labelled(side=40, each=4))
    return DataConfig(name="image_folder", root=str(path), image_size=28)


def _synthetic(folder: Path) -> DataConfig:
    return DataConfig(name="synthetic", image_size=8, classes=3)


SAMPLES: dict[str, Callable[[Path], DataConfig]] = {
    "digits": _digits,
    "fashion_mnist": _fashion_mnist,
    "cifar10": _cifar10,
    "cifar100": _cifar100,
    "image_folder": _image_folder,
    "synthetic": _synthetic,
}
"""Write the files of a small instance into a folder, by name of the data set."""
