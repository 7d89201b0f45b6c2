"""Gaussian or Laplace distribution of weights, by maximum likelihood."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from mulfree.errors import ConfigError
from mulfree.operators import get_operator, operator_of

Reals = NDArray[np.float64]
Law = Literal["gaussian", "laplace"]


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The Gaussian and the Laplace density under which numbers are most likely.

    Attributes:
        count: How many numbers.
        mean: Location of the Gaussian.
        std: Its scale, the root of the mean squared deviation from the mean.
        median: Location of the Laplace density.
        deviation: Its scale, the mean absolute deviation from the median.
        gaussian: Mean log-likelihood of a number under the Gaussian, in nats.
        laplace: The same under the Laplace density.
        kurtosis: Fourth moment over squared variance, less 3: of a Gaussian 0, of Laplace 3.
    """

    count: int
    mean: float
    std: float
    median: float
    deviation: float
    gaussian: float
    laplace: float
    kurtosis: float

    @property
    def difference(self) -> float:
        """`laplace - gaussian`, nats a number; above 0 the Laplace density fits better."""
        return self.laplace - self.gaussian

    @property
    def better(self) -> Law:
        """The law with the larger likelihood."""
        return "laplace" if self.difference > 0 else "gaussian"

    def density(self, law: Law, x: Reals) -> Reals:
        """The fitted density of a law at `x`."""
        if law == "gaussian":
            z = (x - self.mean) / self.std
            return np.exp(-z * z / 2) / (self.std * math.sqrt(2 * math.pi))
        return np.exp(-np.abs(x - self.median) / self.deviation) / (2 * self.deviation)


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """Numbers and the densities fitted to them.

    Attributes:
        values: `[N]`.
        fit: Their densities.
    """

    values: Reals
    fit: Fit


@dataclass(frozen=True, kw_only=True, eq=False)
class NetworkWeights:
    """The weights of a network's inner layers.

    Attributes:
        layers: Weights of every layer, by its name.
        pooled: Weights of all layers, each standardised to mean 0 and standard deviation 1: a
            mixture of scales would have heavy tails whatever law the layers follow.
    """

    layers: dict[str, Sample]
    pooled: Sample


def fit(values: NDArray[Any], name: str = "values") -> Fit:
    r"""Fit a Gaussian and a Laplace density.

    With mean :math:`\mu`, standard deviation :math:`\sigma`, median :math:`m` and mean absolute
    deviation :math:`b` from it, all with 1/N, the largest mean log-likelihoods are

    .. math:: -\tfrac12 \log(2 \pi \sigma^2) - \tfrac12 \quad\text{and}\quad -\log(2 b) - 1,

    so that Laplace fits better where :math:`\sigma / b > \sqrt{2 e / \pi} = 1.3155`.

    Args:
        values: Any number of numbers in any shape; computed in float64.
        name: Their name in messages.

    Raises:
        ConfigError: There are none, some are not finite, or all are equal: these have no density.
    """
    x = np.asarray(values, np.float64).ravel()
    if not x.size or not np.isfinite(x).all():
        raise ConfigError(f"fit: `{name}` must be finite numbers, got {_format(x)}")
    mean, median = float(x.mean()), float(np.median(x))
    std, deviation = float(x.std()), float(np.abs(x - median).mean())
    # Rounding gives equal numbers a spread, and squares of the tiniest are 0.
    if x.min() == x.max() or std == 0:
        raise ConfigError(f"fit: `{name}` must not all be equal, got {_format(x)}")
    return Fit(
        count=x.size,
        mean=mean,
        std=std,
        median=median,
        deviation=deviation,
        gaussian=-math.log(2 * math.pi) / 2 - math.log(std) - 0.5,
        laplace=-math.log(2 * deviation) - 1,
        kurtosis=float((((x - mean) / std) ** 4).mean()) - 3,
    )


def inspect_weights(model: nn.Module, operator: str) -> NetworkWeights:
    """Fit the weights of the layers between the first and the last one.

    First and last layer multiply in an adder network, so they are left out of every network, and
    so is any layer in between of another operator.

    Args:
        model: The network.
        operator: Operator of the layers, one of `mulfree.operators.OPERATORS`.

    Raises:
        ConfigError: Unknown operator, no such layer, or weights that `fit` refuses.

    References:
        Adder weights are Laplace and convolution weights Gaussian: arXiv 2009.13044.
    """
    get_operator(operator)
    found = [
        (name, layer, of) for name, layer in model.named_modules() if (of := operator_of(layer))
    ]
    layers = {
        name: _sample(layer.get_parameter("weight"), f"{name}.weight")
        for name, layer, of in found[1:-1]
        if of.name == operator
    }
    if not layers:
        raise ConfigError(
            f"inspect_weights: `model` must have a layer of {operator} between its first and its "
            f"last, got a {type(model).__name__} without"
        )
    pooled = np.concatenate(
        [(sample.values - sample.fit.mean) / sample.fit.std for sample in layers.values()]
    )
    return NetworkWeights(layers=layers, pooled=Sample(values=pooled, fit=fit(pooled)))


def _sample(weight: Tensor, name: str) -> Sample:
    values = weight.detach().double().cpu().numpy().ravel()
    return Sample(values=values, fit=fit(values, name))


def _format(x: Reals) -> str:
    return f"{x.size} from {x.min():g} to {x.max():g}" if x.size else "none"
