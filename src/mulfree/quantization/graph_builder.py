"""Builder of the integer graph: values, nodes, and their unique names."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from mulfree.nodes import Node, Value
from mulfree.nodes.lut import Lut as LutNode
from mulfree.nodes.pad import Pad as PadNode
from mulfree.quantization.fused_ops import FusedLayer, Shape
from mulfree.quantization.layout import QuantLayout
from mulfree.quantization.qparams import QuantParams


class GraphBuilder:
    """Append values and nodes in execution order.

    Args:
        layout: Shared scales.
        qparams: Quantisation parameters by their name in the layout.

    Attributes:
        values: Values by name.
        nodes: Nodes in order.
    """

    def __init__(self, layout: QuantLayout, qparams: Mapping[str, QuantParams]) -> None:
        self._layout = layout
        self._qparams = qparams
        self.values: dict[str, Value] = {}
        self.nodes: list[Node] = []

    def qparams_of(self, value: str) -> QuantParams:
        """Quantisation parameters of a value."""
        return self._qparams[self._layout.roots[value]]

    def operand_qparams(self, layer: FusedLayer) -> QuantParams:
        """Quantisation parameters of the input of a layer."""
        return self._qparams[self._layout.operand(layer)]

    def declare(self, name: str, shape: Shape, qparams: QuantParams) -> str:
        """Add a value; return its name."""
        self.values[name] = Value(
            name=name, shape=shape, scale=qparams.scale, zero_point=qparams.zero_point
        )
        return name

    def unique(self, name: str) -> str:
        """`name`, followed by a number if a node has it, as for a layer used twice."""
        used = {node.name for node in self.nodes}
        numbered = (f"{name}.{number}" for number in itertools.count(2))
        return next(n for n in itertools.chain([name], numbered) if n not in used)

    def requantize(self, source: str, name: str, target: QuantParams) -> str:
        """Copy of a value with other quantisation parameters, made once."""
        if name not in self.values:
            value = self.values[source]
            reals = value.scale * (np.arange(256.0) - value.zero_point)
            row = np.floor(reals / target.scale + target.zero_point + 0.5).clip(0, target.qmax)
            table = np.tile(row.astype(np.uint8), (value.shape[0], 1))
            self.declare(name, value.shape, target)
            self.nodes.append(LutNode(name=name, input=source, output=name, table=table))
        return name

    def pad(self, source: str, qparams: QuantParams, border: Sequence[int]) -> str:
        """A value with a border of zeros: left, right, top, bottom."""
        left, right, top, bottom = border
        name = self.unique(f"{source}.padded")
        channels, rows, columns = self.values[source].shape
        shape = (channels, rows + top + bottom, columns + left + right)
        self.declare(name, shape, qparams)
        sides = border_fields(border)
        self.nodes.append(PadNode(name=name, input=source, output=name, **sides))
        return name


def border_fields(border: Sequence[int]) -> dict[str, int]:
    """Fields of a pad node."""
    return dict(zip(("left", "right", "top", "bottom"), border, strict=True))
