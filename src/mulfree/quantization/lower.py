"""Lowering of a fused graph to the integer graph.

All numbers of a node are computed as reals in units of the output scale, then converted to integers
by `fixed_point`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import nn

from mulfree import runtime
from mulfree.nodes import Value
from mulfree.nodes.add import Add as AddNode
from mulfree.nodes.concat import Concat as ConcatNode
from mulfree.nodes.max_pool import MaxPool as MaxPoolNode
from mulfree.nodes.mean import Mean as MeanNode
from mulfree.nodes.pad import Pad as PadNode
from mulfree.nodes.repeat import Repeat as RepeatNode
from mulfree.quantization.fixed_point import fixed_point
from mulfree.quantization.fused_ops import (
    Add,
    AvgPool,
    Concat,
    FusedLayer,
    FusedOp,
    MaxPool,
    Pad,
    Upsample,
)
from mulfree.quantization.graph_builder import GraphBuilder, border_fields
from mulfree.quantization.layout import QuantLayout
from mulfree.quantization.lower_layer import LayerLowering, clamp_max, residual_factor
from mulfree.quantization.lower_logits import lower_classifier, lower_logits
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
    builder = GraphBuilder(layout, qparams)
    builder.declare(fused.input, fused.shape, qparams[fused.input])
    layers = LayerLowering(builder, layout, model, power_of_two_scales=power_of_two_scales)
    for op in fused.ops:
        match op:
            case FusedLayer() if op is fused.classifier:
                lower_classifier(builder, layers, op)
            case FusedLayer():
                layers.lower(op)
            case Pad() if layers.merge(op):
                pass
            case _:
                _lower_other(builder, op, power_of_two_scales)
    if fused.classifier is None:
        lower_logits(builder, fused.ops[-1])
    return runtime.Graph(
        name=name,
        input=_input(builder.values[fused.input], preprocessing),
        values=tuple(builder.values.values()),
        nodes=tuple(builder.nodes),
        classes=preprocessing.classes,
    )


def _lower_other(builder: GraphBuilder, op: FusedOp, power_of_two_scales: bool) -> None:
    source, target = builder.qparams_of(op.input), builder.qparams_of(op.output)
    common: dict[str, Any] = {
        "name": builder.unique(op.path),
        "input": op.input,
        "output": builder.declare(op.output, op.shape, target),
    }
    match op:
        case MaxPool():
            minimum = np.zeros(op.shape[0], np.uint8)
            builder.nodes.append(MaxPoolNode(**common, **vars(op.window), minimum=minimum))
        case Upsample():
            builder.nodes.append(RepeatNode(**common, factor=op.factor))
        case Pad():
            builder.nodes.append(PadNode(**(common | border_fields(op.border))))
        case AvgPool():
            taps = math.prod(op.kernel)
            factor = source.scale / (taps * target.scale)
            offset = target.zero_point - factor * taps * source.zero_point
            fixed = fixed_point([factor], [taps * 255], offset, op.path)
            builder.nodes.append(
                MeanNode(
                    **common,
                    kernel=op.kernel,
                    stride=op.stride,
                    multiplier=int(fixed.factors[0]),
                    offset=int(fixed.offset),
                    shift=fixed.shift,
                    clamp_min=0,
                    clamp_max=target.qmax,
                )
            )
        case Add():
            operands = (source, builder.qparams_of(op.other))
            factors = [
                residual_factor(op, factor, power_of_two_scales) * operand.scale / target.scale
                for factor, operand in zip(op.factors, operands, strict=True)
            ]
            offset = float(target.zero_point)
            for factor, operand in zip(factors, operands, strict=True):
                offset -= factor * operand.zero_point
            fixed = fixed_point(factors, [255, 255], offset, op.path)
            builder.nodes.append(
                AddNode(
                    **common,
                    other=op.other,
                    multiplier=int(fixed.factors[0]),
                    other_multiplier=int(fixed.factors[1]),
                    offset=int(fixed.offset),
                    shift=fixed.shift,
                    clamp_min=target.zero_point if op.relu else 0,
                    clamp_max=clamp_max(op, target),
                )
            )
        case Concat():
            names = [
                name
                if builder.qparams_of(name) == target
                else builder.requantize(name, f"{name}.{op.output}", target)
                for name in op.inputs
            ]
            order = np.arange(op.shape[0], dtype=np.int32)
            common |= {"input": names[0], "others": tuple(names[1:]), "order": order}
            builder.nodes.append(ConcatNode(**common))


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
