"""Builder of the integer graph: values, nodes, and their unique names."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

from mulfree.errors import ConfigError
from mulfree.nodes import Node, Value
from mulfree.nodes.lut.quantize import requantized
from mulfree.quantization.fixed_point import fixed_point
from mulfree.quantization.fused_ops import FusedLayer, FusedOp, Shape
from mulfree.quantization.layout import QuantLayout
from mulfree.quantization.qparams import QuantParams


class GraphBuilder:
    """Append values and nodes in execution order.

    Args:
        layout: Shared scales.
        qparams: Quantisation parameters by their name in the layout.
        power_of_two_scales: Require that factors of sums are powers of two.

    Attributes:
        values: Values by name.
        nodes: Nodes in order.
    """

    fixed_point = staticmethod(fixed_point)

    def __init__(
        self,
        layout: QuantLayout,
        qparams: Mapping[str, QuantParams],
        *,
        power_of_two_scales: bool,
    ) -> None:
        self._layout = layout
        self._qparams = qparams
        self._power_of_two_scales = power_of_two_scales
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

    def fields(self, op: FusedOp) -> dict[str, Any]:
        """Name, input and output of the node of a fused operation; declare the output."""
        name, target = self.unique(op.path), self.qparams_of(op.output)
        output = self.declare(op.output, op.shape, target)
        return {"name": name, "input": op.input, "output": output}

    def append(self, node: Node) -> None:
        """Append a node."""
        self.nodes.append(node)

    def requantize(self, source: str, name: str, target: QuantParams) -> str:
        """Copy of a value with other quantisation parameters, made once."""
        return requantized(self, source, name, target)

    def checked_factor(self, factor: float, path: str) -> float:
        """Factor of a summand, checked to be a power of two if all factors have to be.

        Raises:
            ConfigError: It is not.
        """
        if self._power_of_two_scales and math.frexp(abs(factor))[0] not in (0.0, 0.5):
            raise ConfigError(
                "quantize: `power_of_two_scales` must be False where a sum has a factor that is no "
                f"power of two, got True with {factor} at {path}"
            )
        return factor
