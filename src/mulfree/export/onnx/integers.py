"""A quantised graph as ONNX: the integers of `mulfree.runtime.reference`, bit for bit.

Values are `u8[N, C, H, W]`. Sums are 32 bits wide, normalisation and requantisation 64 bits, as in
the definition. The nodes of each kind are the facet `onnx` of its folder in `mulfree.nodes`.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

import mulfree
from mulfree.errors import ConfigError
from mulfree.export.onnx.builder import IR_VERSION, OPSET, GraphBuilder
from mulfree.export.onnx.facts import set_facts
from mulfree.nodes import facet
from mulfree.nodes.emitting import looked_up
from mulfree.runtime.graph import Graph

PIXELS, IMAGES, LOGITS = "pixels", "images", "logits"


def to_model(graph: Graph, *, pixels: bool) -> onnx.ModelProto:
    """Return the ONNX model of a graph, for any number of images.

    Args:
        graph: The network.
        pixels: True for the input `pixels`, uint8; False for `images`, float32 and normalised.

    Returns:
        A model from `[N, C, H, W]` to `logits`, float32 `[N, classes]`.

    Raises:
        ConfigError: A node has no ONNX form, or there are other outputs than `logits`.
    """
    if list(graph.output_sizes) != [LOGITS]:
        names = ", ".join(graph.output_sizes)
        raise ConfigError(f"to_onnx: `model` must have the one output {LOGITS!r}, got {names}")
    emitters = {node.op: facet(node.op, "onnx") for node in graph.nodes}
    add = GraphBuilder()
    given = PIXELS if pixels else IMAGES
    first = looked_up(add, PIXELS, graph.input.table) if pixels else _quantised(add, graph)
    made = {graph.input.value: first}
    for node in graph.nodes:
        emitter = emitters[node.op]
        if emitter is None:
            raise ConfigError(
                f"to_onnx: `model` must have nodes with an ONNX form alone, got {node.op!r}"
            )
        made[node.output] = emitter.emit(add, node, graph.by_name, made)
    add.nodes[-1].output[0] = LOGITS
    kind = TensorProto.UINT8 if pixels else TensorProto.FLOAT
    shapes: tuple[list[str | int | None], ...] = (
        ["batch", *graph.input_value.shape],
        ["batch", graph.outputs],
    )
    inputs = [helper.make_tensor_value_info(given, kind, shapes[0])]
    outputs = [helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, shapes[1])]
    model = helper.make_model(
        helper.make_graph(add.nodes, graph.name, inputs, outputs, add.constants),
        producer_name="mulfree",
        producer_version=mulfree.__version__,
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    images = graph.input
    set_facts(model, mean=images.mean, std=images.std, resize=images.resize, classes=graph.classes)
    return model


def _quantised(add: GraphBuilder, graph: Graph) -> str:
    """Add `clamp(round(x / scale) + zero, 0, 255)`, half to even; NaN gives 0."""
    value = graph.input_value
    steps = add("Div", IMAGES, add.constant(np.array(value.scale, np.float32)))
    shifted = add("Add", add("Round", steps), add.constant(np.array(value.zero_point, np.float32)))
    nothing, full = (add.constant(np.array(bound, np.float32)) for bound in (0, 255))
    clipped = add("Clip", add("Where", add("IsNaN", shifted), nothing, shifted), nothing, full)
    return add("Cast", clipped, to=TensorProto.UINT8)
