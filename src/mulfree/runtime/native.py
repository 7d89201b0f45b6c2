"""A graph as a native program."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mulfree._native import core
from mulfree.errors import BackendUnavailableError, quoted
from mulfree.nodes import Node
from mulfree.nodes.fields import Text, Texts, field_checks
from mulfree.runtime import memory
from mulfree.runtime.graph import Graph

if TYPE_CHECKING:
    from mulfree._native._core import Program, WeightPool


def weight_pool() -> WeightPool:
    """Return an empty pool of packed weights.

    Raises:
        BackendUnavailableError: The native kernels were not built.
    """
    pool: WeightPool = core().WeightPool()
    return pool


def compiled(graph: Graph, pool: WeightPool | None = None) -> Program:
    """Return the program of a graph, with its nodes in the same order.

    Args:
        graph: The graph.
        pool: Packed weights to share with other programs, of graphs that outlive the pool: layers
            with the same array of weights have one copy of it in the kernels' layout.

    Raises:
        BackendUnavailableError: The native kernels were not built, one of a node is missing, or
            `MULFREE_ISA` names an instruction set that does not run here.
    """
    native = core()
    try:
        program: Program = native.Program(pool=pool)
    except ValueError as error:
        # A MULFREE_ISA that is not here.
        raise BackendUnavailableError(str(error)) from error
    kernels = native.node_kernels()
    ids = {value.name: program.value(*value.shape, value.zero_point) for value in graph.values}
    program.input(ids[graph.input.value], graph.input.table)
    for node in graph.nodes:
        if node.op not in kernels:
            raise BackendUnavailableError(
                f"Session: `backend` must be 'reference' for the node {quoted(node.name)}: "
                f"{quoted(node.op)} has no native kernel"
            )
        writes = None if node.ends else ids[node.output]
        program.append(node.op, [ids[name] for name in node.inputs], writes, fields(node))
    program.compile(*memory.plan([memory.Block(*life) for life in program.lifetimes()]))
    return program


def fields(node: Node) -> dict[str, Any]:
    """Return numbers, pairs and arrays of a node by name, without the names of values."""
    checks = field_checks(type(node)).items()
    return {n: getattr(node, n) for n, check in checks if not isinstance(check, Text | Texts)}
