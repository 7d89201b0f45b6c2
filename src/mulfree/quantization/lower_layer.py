"""Lowering of fused layers: folded weights, requantisation, residual, pooling and padding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from mulfree.nodes import get_node
from mulfree.nodes.pad.quantize import padded
from mulfree.operators.window import Pair, Sliding, resolve_padding
from mulfree.quantization.fixed_point import Reals, fixed_point
from mulfree.quantization.folding import Folded, batch_norm_params, fold
from mulfree.quantization.fused_ops import FusedLayer, FusedOp, LayerModule
from mulfree.quantization.graph_builder import GraphBuilder
from mulfree.quantization.layout import QuantLayout

Border = tuple[int, int, int, int]
"""Left, right, top, bottom, as in `torch.nn.functional.pad`."""


class LayerLowering:
    """Lower the layers of one network.

    Args:
        builder: Receives the nodes.
        layout: Bit widths and shared scales.
        model: Weights and statistics.
        power_of_two_scales: Round every factor to a power of two.
    """

    def __init__(
        self,
        builder: GraphBuilder,
        layout: QuantLayout,
        model: nn.Module,
        *,
        power_of_two_scales: bool,
    ) -> None:
        self._builder = builder
        self._layout = layout
        self._fused = layout.fused
        self._model = model
        self._power_of_two_scales = power_of_two_scales
        # Operations by their output, merged into the padding of their reader.
        self._merged: dict[str, FusedOp] = {}

    def merge(self, op: FusedOp) -> bool:
        """Merge zeros around a value into the padding of its only reader; False if impossible."""
        if op.margin is None:
            return False
        left, right, top, bottom = op.margin
        readers = [reader for reader in self._fused.ops if op.output in reader.inputs]
        if len(readers) != 1:
            return False
        reader = readers[0]
        if not isinstance(reader, FusedLayer) or reader.classifies:
            return False
        module = reader.layer(self._model)
        if reader.flat or module.padding not in ((0, 0), "valid"):
            return False
        if not _fits((left, right, top, bottom), module.kernel_size):
            return False
        self._merged[op.output] = op
        return True

    def lower(self, op: FusedLayer) -> None:
        """Append the nodes of a layer."""
        builder, module = self._builder, op.layer(self._model)
        target = builder.qparams_of(op.output)
        folded = self.fold(op, target.scale)
        factor, offset = folded.factor, folded.offset + target.zero_point
        factors: list[Reals | float] = [factor]
        largest = [folded.largest]
        if op.residual is not None:
            residual = builder.qparams_of(op.residual)
            scaled = builder.checked_factor(op.residual_factor, op.path)
            factors.append(scaled * residual.scale / target.scale)
            largest.append(255)
            offset = offset - factors[1] * residual.zero_point
        fixed = fixed_point(factors, largest, offset, op.path)
        low, high = op.limits(target)
        kind: Any = get_node(op.form.node)
        source, stride, (left, right, top, bottom) = self._source(op, module)
        _, height, width = builder.values[source].shape
        rows, columns = Sliding(stride, (0, 0)).output_hw(
            (height + top + bottom, width + left + right),
            (folded.weight.shape[1], folded.weight.shape[2]),
        )
        shape = (len(folded.weight), rows, columns)
        builder.append(
            kind(
                name=builder.unique(op.path),
                input=source,
                output=builder.declare(_unpooled(op), shape, target),
                weight=folded.weight,
                stride=stride,
                padding=(top, left),
                padding_excess=(bottom - top, right - left),
                groups=getattr(module, "groups", 1),
                multiplier=fixed.factors[0],
                offset=fixed.offset,
                shift=fixed.shift,
                clamp_min=low,
                clamp_max=high,
                residual=op.residual,
                residual_multiplier=int(fixed.factors[1]) if op.residual else 0,
            )
        )
        self._pool(op, factor < 0)

    def fold(self, op: FusedLayer, output_scale: float | None) -> Folded:
        """Folded weights; `output_scale` is None for logits, which are real numbers."""
        return fold(
            op.form,
            op.layer(self._model),
            batch_norm_params(self._model, op),
            self._builder.operand_qparams(op),
            map_shape=self._builder.values[self._input(op)].shape,
            bits=self._layout.weight_bits(op),
            output_scale=output_scale,
            power_of_two_scales=self._power_of_two_scales,
        )

    def _pool(self, op: FusedLayer, negative: NDArray[np.bool_]) -> None:
        """Append the pooling, reversed where the factor is negative."""
        if op.pool is not None:
            path = f"{op.path}.pool"
            pool = replace(
                op.pool, input=_unpooled(op), output=op.output, shape=op.shape, path=path
            )
            pool.lower(self._builder, negative)

    def _input(self, op: FusedLayer) -> str:
        merged = self._merged.get(op.input)
        return op.input if merged is None else merged.input

    def _source(self, op: FusedLayer, module: LayerModule) -> tuple[str, Pair, Border]:
        """Input value of the node, its stride and its border."""
        source, qparams = self._input(op), self._builder.operand_qparams(op)
        if self._layout.operand(op) not in self._layout.roots:
            source = self._builder.requantize(source, f"{source}.copy", qparams)
        if op.flat:
            return source, (1, 1), (0, 0, 0, 0)
        kernel, stride = module.kernel_size, module.stride
        (rows, columns), uneven = resolve_padding(
            op.path, module.padding, kernel, stride, module.dilation
        )
        left, right, top, bottom = uneven or (0, 0, 0, 0)
        border = (columns + left, columns + right, rows + top, rows + bottom)
        merged = self._merged.get(op.input)
        if merged is not None:
            assert merged.margin is not None
            border = merged.margin
        if _fits(border, kernel):
            return source, stride, border
        return padded(self._builder, source, qparams, border), stride, (0, 0, 0, 0)


def _fits(border: Border, kernel: Pair) -> bool:
    """Return True for a border that a layer may have as its padding."""
    left, right, top, bottom = border
    return max(top, bottom) < kernel[0] and max(left, right) < kernel[1]


def _unpooled(op: FusedLayer) -> str:
    """Name of the output of a layer before its pooling."""
    return op.output if op.pool is None else f"{op.output}.unpooled"
