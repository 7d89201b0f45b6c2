"""Time and arithmetic of the nodes of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mulfree.opcounts import OpCounts
from mulfree.runtime.graph import Graph


@dataclass(frozen=True, kw_only=True)
class NodeProfile:
    """Time and arithmetic of one node of a run.

    Attributes:
        name: Name of the node, "input" for the first value.
        op: Kind of the node.
        kernel: Name of the kernel.
        seconds: Time taken for the whole batch, median over the runs.
        share: Part of the time of all nodes, 0..1.
        counts: Operations for one image, without multiplications by a power of two.
    """

    name: str
    op: str
    kernel: str
    seconds: float
    share: float
    counts: OpCounts


def node_profiles(
    graph: Graph, kernels: Sequence[str], seconds: Sequence[float]
) -> list[NodeProfile]:
    """Return one entry for the input and one for each node.

    Args:
        graph: The network.
        kernels: Names of the kernels, of the input first.
        seconds: Their times.
    """
    total = sum(seconds)
    steps = [("input", "input", OpCounts())]
    counts = graph.counts()
    steps += [(n.name, n.op, count) for n, count in zip(graph.nodes, counts, strict=True)]
    return [
        NodeProfile(
            name=name,
            op=op,
            kernel=kernel,
            seconds=taken,
            share=taken / total if total else 0.0,
            counts=count,
        )
        for (name, op, count), kernel, taken in zip(steps, kernels, seconds, strict=True)
    ]
