"""Logits in floating point: the end of a quantised network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mulfree.nodes.linear import Linear

if TYPE_CHECKING:
    from mulfree.nodes.fusing import FusedOp
    from mulfree.quantization.graph_builder import GraphBuilder

Reals = NDArray[np.float64]


def append_classifier(
    builder: GraphBuilder,
    op: FusedOp,
    weight: NDArray[Any],
    factor: Reals,
    offset: Reals,
    output: str,
) -> None:
    """Append a classifier whose sums stay in floating point: `factor * acc + offset`."""
    rows = weight.reshape(len(weight), -1)
    _append(builder, op.path, op.input, output, rows, factor, offset)


def append_logits(builder: GraphBuilder, last: FusedOp, output: str) -> None:
    """Append the dequantisation of logits that were quantised as any other value."""
    qparams, count = builder.qparams_of(last.output), last.shape[0]
    scale = np.full(count, qparams.scale)
    bias = scale * -qparams.zero_point
    _append(builder, output, last.output, output, np.eye(count), scale, bias)


def _append(
    builder: GraphBuilder,
    name: str,
    source: str,
    output: str,
    weight: NDArray[Any],
    scale: Reals,
    bias: Reals,
) -> None:
    builder.append(
        Linear(
            name=builder.unique(name),
            input=source,
            output=output,
            weight=weight.astype(np.int8),
            scale=scale.astype(np.float32),
            bias=bias.astype(np.float32),
        )
    )
