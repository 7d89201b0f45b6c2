"""Lowering of a fused graph to the integer graph.

All numbers of a node are computed as reals in units of the output scale, then converted to integers
by `fixed_point`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import nn

from mulfree import runtime
from mulfree.nodes import Value
from mulfree.nodes.linear.quantize import append_classifier, append_logits
from mulfree.quantization.fused_ops import FusedLayer
from mulfree.quantization.graph_builder import GraphBuilder
from mulfree.quantization.layout import QuantLayout
from mulfree.quantization.lower_layer import LayerLowering
from mulfree.quantization.preprocessing import Preprocessing
from mulfree.quantization.qparams import QuantParams
from mulfree.runtime.graph import Input


def lower(
    name: str,
    layout: QuantLayout,
    model: nn.Module,
    qparams: Mapping[str, QuantParams],
    preprocessing: Preprocessing,
    *,
    power_of_two_scales: bool = False,
) -> runtime.Graph:
    """Integer graph of a network.

    Args:
        name: Name of the graph.
        layout: Bit widths and shared scales.
        model: Weights and statistics.
        qparams: All quantisation parameters of the layout.
        preprocessing: Image preprocessing stored with the graph.
        power_of_two_scales: Round every factor to a power of two.

    Raises:
        ConfigError: A factor is too large for the integers.
    """
    fused = layout.fused
    builder = GraphBuilder(layout, qparams, power_of_two_scales=power_of_two_scales)
    builder.declare(fused.input, fused.shape, qparams[fused.input])
    outputs = {value: output for output, value in fused.outputs.items()}
    layers = LayerLowering(builder, layout, model, power_of_two_scales=power_of_two_scales)
    for op in fused.ops:
        if isinstance(op, FusedLayer) and op.classifies:
            folded = layers.fold(op, None)
            append_classifier(
                builder, op, folded.weight, folded.factor, folded.offset, outputs[op.output]
            )
            continue
        if isinstance(op, FusedLayer):
            layers.lower(op)
        elif not layers.merge(op):
            op.lower(builder)
        if op.output in outputs:
            append_logits(builder, op, outputs[op.output])
    return runtime.Graph(
        name=name,
        input=_input(builder.values[fused.input], preprocessing),
        values=tuple(builder.values.values()),
        nodes=tuple(builder.nodes),
        classes=preprocessing.classes,
    )


def _input(value: Value, preprocessing: Preprocessing) -> Input:
    pixels = np.arange(256) / 255
    mean, std = (np.array(row)[:, None] for row in (preprocessing.mean, preprocessing.std))
    table = np.rint((pixels - mean) / std / value.scale) + value.zero_point
    return Input(
        value=value.name,
        table=np.ascontiguousarray(table.clip(0, 255).astype(np.uint8)),
        mean=preprocessing.mean,
        std=preprocessing.std,
        resize=preprocessing.resize,
    )
