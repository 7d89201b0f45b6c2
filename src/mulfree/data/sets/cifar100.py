"""CIFAR-100: 50,000 + 10,000 colour images 32 x 32 of a hundred classes."""

from __future__ import annotations

from mulfree.data.cifar import CifarVariant
from mulfree.data.config import SetConfig
from mulfree.data.formats.cifar_pickle import CifarFiles

Config = SetConfig

load = CifarVariant(
    classes=100,
    folder="cifar-100-python",
    archive="cifar-100-python.tar.gz",
    images="cifar100-images",
    files=CifarFiles(
        train=("train",),
        test=("test",),
        meta="meta",
        labels_key="fine_labels",
        names_key="fine_label_names",
    ),
    mean=(0.5071, 0.4867, 0.4408),
    std=(0.2675, 0.2565, 0.2761),
).load
