"""Lowering of the end of a network to logits in floating point."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mulfree.nodes.linear import Linear as LinearNode
from mulfree.quantization.fixed_point import Reals
from mulfree.quantization.fused_ops import FusedLayer, FusedOp
from mulfree.quantization.graph_builder import GraphBuilder
from mulfree.quantization.lower_layer import LayerLowering


def lower_classifier(builder: GraphBuilder, layers: LayerLowering, op: FusedLayer) -> None:
    """Append the classifier and its batch norm, whose sums stay in floating point."""
    folded = layers.fold(op, None)
    weight = folded.weight.reshape(len(folded.weight), -1)
    _append(builder, op.path, op.input, weight, folded.factor, folded.offset)


def lower_logits(builder: GraphBuilder, last: FusedOp) -> None:
    """Append the dequantisation of logits that were quantised as any other value."""
    qparams, count = builder.qparams_of(last.output), last.shape[0]
    scale = np.full(count, qparams.scale)
    bias = scale * -qparams.zero_point
    _append(builder, "logits", last.output, np.eye(count), scale, bias)


def _append(
    builder: GraphBuilder, name: str, source: str, weight: NDArray[Any], scale: Reals, bias: Reals
) -> None:
    builder.nodes.append(
        LinearNode(
            name=builder.unique(name),
            input=source,
            weight=weight.astype(np.int8),
            scale=scale.astype(np.float32),
            bias=bias.astype(np.float32),
        )
    )
