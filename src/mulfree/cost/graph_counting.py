"""Count the operations, bytes and energy of a quantised network, node by node."""

from __future__ import annotations

import math

from mulfree.cost.energy import energy
from mulfree.cost.profile import LayerProfile, Profile, Totals
from mulfree.nodes import Node
from mulfree.nodes.fields import tensors
from mulfree.nodes.node import Operations
from mulfree.opcounts import OpCounts
from mulfree.runtime import Graph
from mulfree.runtime.graph import Input

_Shape = tuple[int, int, int]


def count_graph(graph: Graph) -> Profile:
    """Count the cost of one image in a quantised network, node by node.

    Nodes declare their operations and the operands these are for, and each takes the energy of its
    row of `ENERGY_45NM`: a tap of an adder layer 0.03 pJ for the difference of two bytes and 0.1 pJ
    for its accumulation in 32 bits, one of a convolution 0.2 and 0.1 pJ. The epilogue of a layer
    multiplies 32 bits by 32 and is taken at that width, the widest of the table, though it sums in
    64. Multiplications by powers of two are shifts; like comparisons they are left out. Lookups in
    tables have no price, and the table of the pixels is not counted.

    Args:
        graph: The network.

    Returns:
        The profile, with one entry for the table that pixels go through and one for every node.
        Bytes count the tensors in the file, and the outputs.
    """
    values, pixels = graph.by_name, graph.input_value.shape
    layers = [_layer("input", "input", graph.input, (pixels,), pixels, {})]
    layers += [
        _layer(
            node.name,
            node.op,
            node,
            tuple(values[name].shape for name in node.inputs),
            node.output_shape(values),
            node.operations(values),
        )
        for node in graph.nodes
    ]
    return Profile(
        model=graph.name,
        input_size=pixels,
        dtype="int8",
        convention="exact",
        normalisation=True,
        layers=tuple(layers),
        total=Totals.of(layers),
    )


def _layer(
    name: str,
    operator: str,
    part: Input | Node,
    sources: tuple[_Shape, ...],
    made: _Shape,
    operations: Operations,
) -> LayerProfile:
    stored = tensors(part).values()
    weight_bytes = sum(tensor.nbytes for tensor in stored)
    # Logits are float32, all else bytes.
    activation_bytes = math.prod(made) * (4 if isinstance(part, Node) and part.ends else 1)
    return LayerProfile(
        name=name,
        kind=type(part).__name__,
        operator=operator,
        call=0,
        input_shape=(1, *sources[0]),
        output_shape=(1, *made),
        cost=sum(operations.values(), OpCounts()),
        accumulations=0,
        params=sum(tensor.size for tensor in stored),
        weight_bytes=weight_bytes,
        activation_bytes=activation_bytes,
        traffic_bytes=weight_bytes + sum(map(math.prod, sources)) + activation_bytes,
        energy=sum(energy(cost, dtype) for dtype, cost in operations.items()),
        counted=True,
    )
