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


@dataclass(frozen=True, kw_only=True)
class Layer(Step):
    """`relu(norm(pool(layer(x))) + residual)`, of which all but the layer may be missing.

    Attributes:
        module: Path of the layer.
        pool: The maximum between layer and normalisation, or None.
        norm: Path of the batch normalisation, or None.
        residual: Name of the value that is added, or None.
        relu: Whether negative results become zero.
        classifies: Whether it makes the logits and its sums can be left in floating point.
    """

    module: str
    pool: Window | None = None
    norm: str | None = None
    residual: str | None = None
    relu: bool = False
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
            y = y + residual
        return functional.relu(y) if self.relu else y


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
class Add(Step):
    """Sum of two values.

    Attributes:
        other: Name of the second value.
        relu: Whether negative results become zero.
    """

    other: str
    relu: bool = False

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
        return functional.relu(x + other) if self.relu else x + other
