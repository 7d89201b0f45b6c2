"""Requantisation of a value by a lookup table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mulfree.nodes.lut import Lut

if TYPE_CHECKING:
    from mulfree.quantization.graph_builder import GraphBuilder
    from mulfree.quantization.qparams import QuantParams


def requantized(builder: GraphBuilder, source: str, name: str, target: QuantParams) -> str:
    """Append a copy of a value with other quantisation parameters, once; return `name`."""
    if name not in builder.values:
        value = builder.values[source]
        reals = value.scale * (np.arange(256.0) - value.zero_point)
        row = np.floor(reals / target.scale + target.zero_point + 0.5).clip(0, target.qmax)
        table = np.tile(row.astype(np.uint8), (value.shape[0], 1))
        builder.declare(name, value.shape, target)
        builder.append(Lut(name=name, input=source, output=name, table=table))
    return name
