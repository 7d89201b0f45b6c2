"""Fused layers of a network to be quantised.

The fused operations of nodes other than layers are the facets `quantize` in `mulfree.nodes`. All
compute with the modules of the model, referenced by path.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor, nn

from mulfree.nodes.fusing import FusedOp as FusedOp
from mulfree.nodes.fusing import OrderOp, RectifiedOp, times
from mulfree.nodes.node import Shape as Shape
from mulfree.operators.integer_form import IntegerForm

# The base class includes SyncBatchNorm.
BatchNorm: TypeAlias = nn.modules.batchnorm._BatchNorm
# Layer of any operator with an integer form.
LayerModule: TypeAlias = Any
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


@dataclass(frozen=True, kw_only=True)
class FusedLayer(RectifiedOp):
    """`relu(batch_norm(pool(layer(x))) + residual)`; all but the layer are optional.

    Attributes:
        module: Path of the layer.
        form: Integer form of its operator.
        flat: True for a linear layer, whose input is flattened.
        pool: Operation between layer and batch norm, as max pooling, or None.
        batch_norm: Path of the batch norm, or None.
        residual: Name of the value added, or None.
        residual_factor: Factor of the residual.
        classifies: True for a classifier whose sums can stay in floating point.
    """

    module: str
    form: IntegerForm
    flat: bool
    pool: OrderOp | None = None
    batch_norm: str | None = None
    residual: str | None = None
    residual_factor: float = 1.0
    classifies: bool = False

    @property
    def inputs(self) -> tuple[str, ...]:
        """Input and residual."""
        return (self.input,) if self.residual is None else (self.input, self.residual)

    def layer(self, model: nn.Module) -> LayerModule:
        """Module of the layer."""
        return model.get_submodule(self.module)

    def run(
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
            y = self.pool.compute(y)
        if self.batch_norm is not None:
            batch_norm = model.get_submodule(self.batch_norm)
            assert isinstance(batch_norm, BatchNorm)
            y = batch_norm_hook(batch_norm, y, batch_norm(y))
        y = y[..., None, None] if self.flat else y
        if residual is not None:
            y = y + times(self.residual_factor, residual)
        return self.rectified(y)
