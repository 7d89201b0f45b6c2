"""Quantisation of elementwise functions, and requantisation of a value, by lookup tables."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn import functional

from mulfree.nodes.fusing import Composition, FusedOp, Spellings
from mulfree.nodes.lut import Lut
from mulfree.nodes.node import Value

if TYPE_CHECKING:
    from mulfree.quantization.fusion import Fusion
    from mulfree.quantization.graph_builder import GraphBuilder
    from mulfree.quantization.qparams import QuantParams

# Part of a layer or a sum, if one is before them.
_RECTIFIERS = (nn.ReLU, nn.Hardtanh)
ELEMENTWISE = (
    *_RECTIFIERS,
    *(nn.SiLU, nn.Sigmoid, nn.Hardswish, nn.Hardsigmoid, nn.GELU, nn.Mish, nn.Tanh, nn.LogSigmoid),
    *(nn.ELU, nn.CELU, nn.SELU, nn.LeakyReLU, nn.Softplus, nn.Softsign, nn.Threshold),
    *(nn.Hardshrink, nn.Softshrink, nn.Tanhshrink, Composition),
)
TARGETS = ELEMENTWISE
SPELLINGS: Spellings = {
    functional.silu: (nn.SiLU, ("inplace",)),
    **dict.fromkeys(
        (functional.sigmoid, torch.sigmoid, torch.sigmoid_, "sigmoid", "sigmoid_"),
        (nn.Sigmoid, ()),
    ),
    **dict.fromkeys((functional.tanh, torch.tanh, torch.tanh_, "tanh", "tanh_"), (nn.Tanh, ())),
    functional.hardswish: (nn.Hardswish, ("inplace",)),
    functional.hardsigmoid: (nn.Hardsigmoid, ("inplace",)),
    functional.gelu: (nn.GELU, ("approximate",)),
    functional.mish: (nn.Mish, ("inplace",)),
    functional.logsigmoid: (nn.LogSigmoid, ()),
    **dict.fromkeys((functional.elu, functional.elu_), (nn.ELU, ("alpha", "inplace"))),
    **dict.fromkeys(
        (functional.celu, functional.celu_, torch.celu, torch.celu_),
        (nn.CELU, ("alpha", "inplace")),
    ),
    **dict.fromkeys(
        (functional.selu, functional.selu_, torch.selu, torch.selu_), (nn.SELU, ("inplace",))
    ),
    **dict.fromkeys(
        (functional.leaky_relu, functional.leaky_relu_),
        (nn.LeakyReLU, ("negative_slope", "inplace")),
    ),
    functional.softplus: (nn.Softplus, ("beta", "threshold")),
    functional.softsign: (nn.Softsign, ()),
    **dict.fromkeys(
        (functional.threshold, torch.threshold, torch.threshold_),
        (nn.Threshold, ("threshold", "value", "inplace")),
    ),
    **dict.fromkeys((functional.hardshrink, torch.hardshrink), (nn.Hardshrink, ("lambd",))),
    functional.softshrink: (nn.Softshrink, ("lambd",)),
    functional.tanhshrink: (nn.Tanhshrink, ()),
}

# A function is flat where it varies by less: half a step of 8 bits over a range of 1.
_FLAT = 2.0**-9


@dataclass(frozen=True, kw_only=True)
class FusedLut(FusedOp):
    """Elementwise function.

    Attributes:
        function: Module without parameters that computes it.
    """

    rescales = True

    function: nn.Module

    @property
    def domain(self) -> tuple[float, float]:
        """Interval beyond which the function is flat."""
        far = torch.tensor([-1e6, -1e4, -1e2], dtype=torch.float64)
        near = torch.arange(-640, 641, dtype=torch.float64) / 32
        x = torch.cat((far, near, -far.flip(0)))
        with torch.no_grad():
            y = self.function(x)
        low, high = _end_of_flat(x, y), -_end_of_flat(-x.flip(0), y.flip(0))
        return (low, high) if low < high else (-math.inf, math.inf)

    def compute(self, x: Tensor, *others: Tensor) -> Tensor:
        """Return the function of every number."""
        y: Tensor = self.function(x)
        return y

    def lower(self, builder: GraphBuilder) -> None:
        """Append the node."""
        fields, target = builder.fields(self), builder.qparams_of(self.output)
        table = _table(builder.values[self.input], target, self.function)
        builder.append(Lut(**fields, table=table))


def _end_of_flat(x: Tensor, y: Tensor) -> float:
    """Return the last number up to which `y` varies little; minus infinity if there is none."""
    flat = y.cummax(0).values - y.cummin(0).values <= _FLAT
    last = int(flat.long().cumprod(0).sum()) - 1
    return float(x[last]) if last > 0 else -math.inf


def matches(fusion: Fusion, node: fx.Node, module: nn.Module) -> bool:
    """Return False for a rectifier that the layer or sum before it takes in."""
    rectifies = isinstance(module, nn.ReLU) or (
        isinstance(module, nn.Hardtanh) and module.min_val == 0
    )
    return not rectifies or fusion.growing(fusion.source(node)) is None


def fuse(fusion: Fusion, node: fx.Node, module: nn.Module) -> None:
    """Fuse an elementwise function."""
    source = fusion.source(node)
    function: Any = copy.copy(module)
    if hasattr(function, "inplace"):
        function.inplace = False
    value = fusion.value(source, node)
    shape = fusion.shapes[value]
    fusion.close(node, fusion.new(FusedLut, node, value, shape=shape, function=function))


def requantized(builder: GraphBuilder, source: str, name: str, target: QuantParams) -> str:
    """Append a copy of a value with other quantisation parameters, once; return `name`."""
    if name not in builder.values:
        value = builder.values[source]
        table = _table(value, target, nn.Identity())
        builder.declare(name, value.shape, target)
        builder.append(Lut(name=name, input=source, output=name, table=table))
    return name


def _table(source: Value, target: QuantParams, function: nn.Module) -> NDArray[np.uint8]:
    """Return the table `[C, 256]` of a function, rounded half up; a NaN is 0."""
    reals = torch.from_numpy(source.scale * (np.arange(256.0) - source.zero_point))
    with torch.no_grad():
        numbers = np.nan_to_num(function(reals).numpy(), posinf=np.inf, neginf=-np.inf)
    row = np.floor(numbers / target.scale + target.zero_point + 0.5).clip(0, target.qmax)
    return np.tile(row.astype(np.uint8), (source.shape[0], 1))
