"""The steps of a network that is to be quantised: each makes one value that is stored.

What lies between two stored values (a layer, its normalisation, a residual, a ReLU) is one step, as
it is one node of the integer network. A step is computed in floating point by the modules of the
model, which it names by their paths, so that it can be calibrated and trained.

Legend: N images, C channels, H W rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from mulfree.nn import Adder2d, AdderLinear

Shape: TypeAlias = tuple[int, int, int]
Pair: TypeAlias = tuple[int, int]
# One over the images of several processes, too.
Norm: TypeAlias = nn.modules.batchnorm._BatchNorm
AnyLayer: TypeAlias = nn.Conv2d | nn.Linear | Adder2d | AdderLinear
LINEAR = (nn.Linear, AdderLinear)
ADDER = (Adder2d, AdderLinear)
LAYERS = (nn.Conv2d, Adder2d, *LINEAR)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


@dataclass(frozen=True, kw_only=True)
class Step:
    """What makes one value.

    Attributes:
        output: Name of the value.
        shape: Its shape, C, H, W.
        input: Name of the value that is read.
        path: Where in the model it is, for error messages.
    """

    output: str
    shape: Shape
    input: str
    path: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of all values that are read."""
        return (self.input,)

    @property
    def rescales(self) -> bool:
        """Whether the result has a scale of its own, not that of the input."""
        return False


@dataclass(frozen=True, kw_only=True)
class Window:
    """Where a maximum is taken.

    Attributes:
        kernel: Rows, columns.
        stride: Rows, columns.
        padding: Rows above and below, columns left and right; never the maximum.
    """

    kernel: Pair
    stride: Pair
    padding: Pair

    def maximum(self, x: Tensor) -> Tensor:
        """The maximum of every window of `[N, C, H, W]`."""
        return functional.max_pool2d(x, self.kernel, self.stride, self.padding)


def _times(factor: float, x: Tensor) -> Tensor:
    return x if factor == 1.0 else factor * x


def _rectified(x: Tensor, ceiling: float | None) -> Tensor:
    return functional.relu(x) if ceiling is None else x.clamp(0.0, ceiling)


@dataclass(frozen=True, kw_only=True)
class Layer(Step):
    """`relu(norm(pool(layer(x))) + residual)`, of which all but the layer may be missing.

    Attributes:
        module: Path of the layer.
        pool: The maximum between layer and normalisation, or None.
        norm: Path of the batch normalisation, or None.
        residual: Name of the value that is added, or None.
        residual_factor: What that is multiplied by.
        relu: Whether negative results become zero.
        ceiling: What greater results become, as behind a ReLU6, or None.
        classifies: Whether it makes the logits and its sums can be left in floating point.
    """

    module: str
    pool: Window | None = None
    norm: str | None = None
    residual: str | None = None
    residual_factor: float = 1.0
    relu: bool = False
    ceiling: float | None = None
    classifies: bool = False

    @property
    def inputs(self) -> tuple[str, ...]:
        """Input and residual."""
        return (self.input,) if self.residual is None else (self.input, self.residual)

    @property
    def rescales(self) -> bool:
        """Always."""
        return True

    def layer(self, model: nn.Module) -> AnyLayer:
        """The layer's module."""
        layer = model.get_submodule(self.module)
        assert isinstance(layer, LAYERS)
        return layer

    def compute(
        self,
        model: nn.Module,
        x: Tensor,
        residual: Tensor | None,
        apply: Callable[[Tensor], Tensor],
        normalised: Callable[[Norm, Tensor, Tensor], Tensor],
    ) -> Tensor:
        """The result `[N, C, H, W]`.

        Args:
            model: The network.
            x: What the layer reads.
            residual: What is added.
            apply: What the layer makes of that, in a linear layer's flat form.
            normalised: Called with the normalisation, what it reads and what it makes of that; its
                result takes that place.
        """
        layer = self.layer(model)
        flat = isinstance(layer, LINEAR)
        x = x.flatten(1) if flat else x
        y = apply(x)
        if self.pool is not None:
            y = self.pool.maximum(y)
        if self.norm is not None:
            norm = model.get_submodule(self.norm)
            assert isinstance(norm, Norm)
            y = normalised(norm, y, norm(y))
        y = y[..., None, None] if flat else y
        if residual is not None:
            y = y + _times(self.residual_factor, residual)
        return _rectified(y, self.ceiling) if self.relu else y


@dataclass(frozen=True, kw_only=True)
class MaxPool(Step):
    """Maximum of windows."""

    window: Window

    def compute(self, x: Tensor) -> Tensor:
        """`[N, C, H, W]`."""
        return self.window.maximum(x)


@dataclass(frozen=True, kw_only=True)
class Mean(Step):
    """Mean of windows."""

    kernel: Pair
    stride: Pair

    @property
    def rescales(self) -> bool:
        """Always."""
        return True

    def compute(self, x: Tensor) -> Tensor:
        """`[N, C, H, W]`."""
        return functional.avg_pool2d(x, self.kernel, self.stride)


@dataclass(frozen=True, kw_only=True)
class Repeat(Step):
    """Every position `factor` times in both directions."""

    factor: int

    def compute(self, x: Tensor) -> Tensor:
        """`[N, C, H, W]`."""
        return functional.interpolate(x, scale_factor=float(self.factor))


@dataclass(frozen=True, kw_only=True)
class Pad(Step):
    """A border of zeros.

    Attributes:
        border: Left, right, top, bottom.
    """

    border: tuple[int, int, int, int]

    def compute(self, x: Tensor) -> Tensor:
        """`[N, C, H, W]`."""
        return functional.pad(x, self.border)


@dataclass(frozen=True, kw_only=True)
class Concat(Step):
    """The channels of several values behind one another.

    Attributes:
        others: Names of the values behind the first.
    """

    others: tuple[str, ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        """All values, in order."""
        return self.input, *self.others

    @property
    def rescales(self) -> bool:
        """Always."""
        return True

    def compute(self, *values: Tensor) -> Tensor:
        """`[N, C, H, W]`."""
        return torch.cat(values, 1)


@dataclass(frozen=True, kw_only=True)
class Add(Step):
    """Sum of two values.

    Attributes:
        other: Name of the second value.
        factors: What the two are multiplied by.
        relu: Whether negative results become zero.
        ceiling: What greater results become, or None.
    """

    other: str
    factors: tuple[float, float] = (1.0, 1.0)
    relu: bool = False
    ceiling: float | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """Both values."""
        return self.input, self.other

    @property
    def rescales(self) -> bool:
        """Always."""
        return True

    def compute(self, x: Tensor, other: Tensor) -> Tensor:
        """`[N, C, H, W]`."""
        first, second = self.factors
        y = _times(first, x) + _times(second, other)
        return _rectified(y, self.ceiling) if self.relu else y
