"""Features of images before the classifier, as points of the plane."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from mulfree.errors import ConfigError
from mulfree.operators import operator_of
from mulfree.training import Batch, evaluate


@dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """Images as points.

    Attributes:
        points: `[N, 2]`.
        labels: Class of every image, `[N]`.
        accuracy: Fraction of the images that the network classifies correctly.
    """

    points: NDArray[np.float64]
    labels: NDArray[np.int64]
    accuracy: float


def classifier_of(model: nn.Module) -> nn.Module:
    """The last layer, if it has two inputs.

    Raises:
        ConfigError: Another number of inputs, or no layer.
    """
    layers = [layer for layer in model.modules() if operator_of(layer)]
    count = math.prod(layers[-1].get_parameter("weight").shape[1:]) if layers else 0
    if count != 2:
        raise ConfigError(
            "features: `model` must have 2 features in front of its classifier, as lenet5_bn has "
            f"with the option embedding=2, got {count}"
        )
    return layers[-1]


def features(model: nn.Module, batches: Iterable[Batch]) -> Features:
    """Input of the classifier of `model` for every image, in evaluation mode.

    Args:
        model: A network with two features, see `classifier_of`; its mode stays unchanged.
        batches: Images and labels, on the model's device.

    Raises:
        ConfigError: The network has not two features.
        DataError: There was no batch.
    """
    points: list[Tensor] = []
    labels: list[Tensor] = []

    def remember(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        points.append(inputs[0].flatten(1).double().cpu())

    def remembered() -> Iterator[Batch]:
        for batch in batches:
            labels.append(batch[1].cpu())
            yield batch

    hook = classifier_of(model).register_forward_pre_hook(remember)
    try:
        accuracy = evaluate(model, remembered()).accuracy
    finally:
        hook.remove()
    return Features(
        points=np.concatenate([part.numpy() for part in points]),
        labels=np.concatenate([part.numpy() for part in labels]),
        accuracy=accuracy,
    )
