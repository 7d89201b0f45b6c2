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
        if len(readers) != 1 or (left, top) != (right, bottom):
            return False
        reader = readers[0]
        if not isinstance(reader, FusedLayer) or reader is self._fused.classifier:
            return False
        module = reader.layer(self._model)
        if reader.flat or module.padding not in ((0, 0), "valid"):
            return False
        if top >= module.kernel_size[0] or left >= module.kernel_size[1]:
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
        source, stride, padding = self._source(op, module)
        rows, columns = Sliding(stride, padding).output_hw(
            builder.values[source].shape[1:], (folded.weight.shape[1], folded.weight.shape[2])
        )
        shape = (len(folded.weight), rows, columns)
        builder.append(
            kind(
                name=builder.unique(op.path),
                input=source,
                output=builder.declare(_unpooled(op), shape, target),
                weight=folded.weight,
                stride=stride,
                padding=padding,
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

    def _source(self, op: FusedLayer, module: LayerModule) -> tuple[str, Pair, Pair]:
        """Input value of the node, its stride and its padding."""
        source, qparams = self._input(op), self._builder.operand_qparams(op)
        if self._layout.operand(op) not in self._layout.roots:
            source = self._builder.requantize(source, f"{source}.copy", qparams)
        if op.flat:
            return source, (1, 1), (0, 0)
        kernel, stride = module.kernel_size, module.stride
        padding, uneven = resolve_padding(op.path, module.padding, kernel, stride, module.dilation)
        merged = self._merged.get(op.input)
        if merged is not None:
            assert merged.margin is not None
            padding = (merged.margin[2], merged.margin[0])
        if uneven is None and all(p < k for p, k in zip(padding, kernel, strict=True)):
            return source, stride, padding
        even = (padding[1], padding[1], padding[0], padding[0])
        border = [one + other for one, other in zip(even, uneven or (0,) * 4, strict=True)]
        return padded(self._builder, source, qparams, border), stride, (0, 0)


def _unpooled(op: FusedLayer) -> str:
    """Name of the output of a layer before its pooling."""
    return op.output if op.pool is None else f"{op.output}.unpooled"
