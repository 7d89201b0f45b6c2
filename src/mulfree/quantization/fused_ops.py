"""Fused operations of a network to be quantised; each writes one stored value.

A fused operation covers everything between two stored values (a layer, its batch norm, a residual,
a ReLU), as one node of the integer network does. It computes in floating point with the modules of
the model, referenced by path, for calibration and training.

Legend: N images, C channels, H W rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from mulfree.operators.integer_form import IntegerForm

Shape: TypeAlias = tuple[int, int, int]
Pair: TypeAlias = tuple[int, int]
# The base class includes SyncBatchNorm.
BatchNorm: TypeAlias = nn.modules.batchnorm._BatchNorm
# Layer of any operator with an integer form.
LayerModule: TypeAlias = Any
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


@dataclass(frozen=True, kw_only=True)
class FusedOp:
    """Base of the fused operations.

    Attributes:
        output: Name of the value written.
        shape: Its shape, C, H, W.
        input: Name of the value read.
        path: Location in the model, for error messages.
    """

    output: str
    shape: Shape
    input: str
    path: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of all values read."""
        return (self.input,)

    @property
    def rescales(self) -> bool:
        """True if the output has its own scale, False if it shares the scale of the input."""
        return False


@dataclass(frozen=True, kw_only=True)
class PoolWindow:
    """Geometry of a maximum pooling.

    Attributes:
        kernel: Rows, columns.
        stride: Rows, columns.
        padding: Rows above and below, columns left and right; never the maximum.
    """

    kernel: Pair
    stride: Pair
    padding: Pair

    def maximum(self, x: Tensor) -> Tensor:
        """Maximum of every window of `[N, C, H, W]`."""
        return functional.max_pool2d(x, self.kernel, self.stride, self.padding)


def _times(factor: float, x: Tensor) -> Tensor:
    return x if factor == 1.0 else factor * x


def _relu(x: Tensor, ceiling: float | None) -> Tensor:
    return functional.relu(x) if ceiling is None else x.clamp(0.0, ceiling)


@dataclass(frozen=True, kw_only=True)
class FusedLayer(FusedOp):
    """`relu(batch_norm(pool(layer(x))) + residual)`; all but the layer are optional.

    Attributes:
        module: Path of the layer.
        form: Integer form of its operator.
        flat: True for a linear layer, whose input is flattened.
        pool: Maximum pooling between layer and batch norm, or None.
        batch_norm: Path of the batch norm, or None.
        residual: Name of the value added, or None.
        residual_factor: Factor of the residual.
        relu: Clamp negative results to zero.
        ceiling: Upper bound of the result, as of ReLU6, or None.
        classifies: True for a classifier whose sums can stay in floating point.
    """

    module: str
    form: IntegerForm
    flat: bool
    pool: PoolWindow | None = None
    batch_norm: str | None = None
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
        """Always True."""
        return True

    def layer(self, model: nn.Module) -> LayerModule:
        """Module of the layer."""
        return model.get_submodule(self.module)

    def compute(
        self,
        model: nn.Module,
        x: Tensor,
        residual: Tensor | None,
        apply: Callable[[Tensor], Tensor],
        batch_norm_hook: Callable[[BatchNorm, Tensor, Tensor], Tensor],
    ) -> Tensor:
        """Output `[N, C, H, W]`.

        Args:
            model: The network.
            x: Input of the layer.
            residual: Value added.
            apply: Computes the bare layer; its input is flat for a linear layer.
            batch_norm_hook: Called with the batch norm, its input and its output; returns the value
                to use instead of the output.
        """
        y = apply(x.flatten(1) if self.flat else x)
        if self.pool is not None:
            y = self.pool.maximum(y)
        if self.batch_norm is not None:
            batch_norm = model.get_submodule(self.batch_norm)
            assert isinstance(batch_norm, BatchNorm)
            y = batch_norm_hook(batch_norm, y, batch_norm(y))
        y = y[..., None, None] if self.flat else y
        if residual is not None:
            y = y + _times(self.residual_factor, residual)
        return _relu(y, self.ceiling) if self.relu else y


@dataclass(frozen=True, kw_only=True)
class MaxPool(FusedOp):
    """Maximum pooling."""

    window: PoolWindow

    def compute(self, x: Tensor) -> Tensor:
        """Output `[N, C, H, W]`."""
        return self.window.maximum(x)


@dataclass(frozen=True, kw_only=True)
class AvgPool(FusedOp):
    """Average pooling."""

    kernel: Pair
    stride: Pair

    @property
    def rescales(self) -> bool:
        """Always True."""
        return True

    def compute(self, x: Tensor) -> Tensor:
        """Output `[N, C, H, W]`."""
        return functional.avg_pool2d(x, self.kernel, self.stride)


@dataclass(frozen=True, kw_only=True)
class Upsample(FusedOp):
    """Nearest-neighbour upsampling: each position repeated `factor` times in both directions."""

    factor: int

    def compute(self, x: Tensor) -> Tensor:
        """Output `[N, C, H, W]`."""
        return functional.interpolate(x, scale_factor=float(self.factor))


@dataclass(frozen=True, kw_only=True)
class Pad(FusedOp):
    """Zero padding.

    Attributes:
        border: Left, right, top, bottom.
    """

    border: tuple[int, int, int, int]

    def compute(self, x: Tensor) -> Tensor:
        """Output `[N, C, H, W]`."""
        return functional.pad(x, self.border)


@dataclass(frozen=True, kw_only=True)
class Concat(FusedOp):
    """Concatenation by channels.

    Attributes:
        others: Names of the values after the first.
    """

    others: tuple[str, ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        """All values, in order."""
        return self.input, *self.others

    @property
    def rescales(self) -> bool:
        """Always True."""
        return True

    def compute(self, *values: Tensor) -> Tensor:
        """Output `[N, C, H, W]`."""
        return torch.cat(values, 1)


@dataclass(frozen=True, kw_only=True)
class Add(FusedOp):
    """Sum of two values.

    Attributes:
        other: Name of the second value.
        factors: Factors of the two values.
        relu: Clamp negative results to zero.
        ceiling: Upper bound of the result, or None.
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
        """Always True."""
        return True

    def compute(self, x: Tensor, other: Tensor) -> Tensor:
        """Output `[N, C, H, W]`."""
        first, second = self.factors
        y = _times(first, x) + _times(second, other)
        return _relu(y, self.ceiling) if self.relu else y
