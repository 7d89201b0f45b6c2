"""A quantised graph as ONNX: the integers of `mulfree.runtime.reference`, bit for bit.

Values are `u8[N, C, H, W]`. Sums are 32 bits wide, normalisation and requantisation 64 bits, as in
the definition. The nodes of each kind are the facet `onnx` of its folder in `mulfree.nodes`.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

import mulfree
from mulfree.errors import ConfigError, quoted
from mulfree.export.onnx.builder import IR_VERSION, OPSET, GraphBuilder
from mulfree.export.onnx.facts import set_facts
from mulfree.nodes import facet
from mulfree.nodes.emitting import looked_up
from mulfree.runtime.graph import Graph

PIXELS, IMAGES = "pixels", "images"


def to_model(graph: Graph, *, pixels: bool) -> onnx.ModelProto:
    """Return the ONNX model of a graph, for any number of images.

    Args:
        graph: The network.
        pixels: True for the input `pixels`, uint8; False for `images`, float32 and normalised.

    Returns:
        A model from `[N, C, H, W]` to the outputs of the graph, float32 `[N, classes]` each.

    Raises:
        ConfigError: A node has no ONNX form, or an output has the name of another tensor.
    """
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
        name = emitter.emit(add, node, graph.by_name, made)
        if node.ends:
            add.nodes[-1].output[0] = node.output
        else:
            made[node.output] = name
    _check_names(graph, add, given)
    kind = TensorProto.UINT8 if pixels else TensorProto.FLOAT
    inputs = [helper.make_tensor_value_info(given, kind, ["batch", *graph.input_value.shape])]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
        for name, size in graph.output_sizes.items()
    ]
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


def _check_names(graph: Graph, add: GraphBuilder, given: str) -> None:
    """Refuse an output with the name of the input, a constant or another result."""
    names = [given, *(constant.name for constant in add.constants)]
    names += [name for node in add.nodes for name in node.output]
    for output in graph.output_sizes:
        if names.count(output) > 1:
            raise ConfigError(
                "to_onnx: `model` must have outputs with names that no other tensor of the file "
                f"has, got {quoted(output)}"
            )


def _quantised(add: GraphBuilder, graph: Graph) -> str:
    """Add `clamp(round(x / scale) + zero, 0, 255)`, half to even; NaN gives 0."""
    value = graph.input_value
    steps = add("Div", IMAGES, add.constant(np.array(value.scale, np.float32)))
    shifted = add("Add", add("Round", steps), add.constant(np.array(value.zero_point, np.float32)))
    nothing, full = (add.constant(np.array(bound, np.float32)) for bound in (0, 255))
    clipped = add("Clip", add("Where", add("IsNaN", shifted), nothing, shifted), nothing, full)
    return add("Cast", clipped, to=TensorProto.UINT8)
