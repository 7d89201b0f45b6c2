"""CIFAR-10: 50,000 + 10,000 colour images 32 x 32 of ten classes."""

from __future__ import annotations

from mulfree.data.cifar import CifarVariant
from mulfree.data.config import SetConfig
from mulfree.data.formats.cifar_pickle import CifarFiles

Config = SetConfig

load = CifarVariant(
    classes=10,
    folder="cifar-10-batches-py",
    archive="cifar-10-python.tar.gz",
    images="cifar10-images",
    files=CifarFiles(
        train=tuple(f"data_batch_{number}" for number in range(1, 6)),
        test=("test_batch",),
        meta="batches.meta",
        labels_key="labels",
        names_key="label_names",
    ),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2023, 0.1994, 0.2010),
).load
