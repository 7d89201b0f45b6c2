"""Groups of values whose channels can be multiplied by one factor each."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from torch import nn

from mulfree.nodes.fusing import RectifiedOp
from mulfree.quantization.fused_graph import FusedGraph
from mulfree.quantization.fused_ops import FusedLayer, FusedOp


@dataclass(frozen=True, kw_only=True)
class ChannelGroup:
    """Values with one factor for each channel.

    Attributes:
        values: Names of the values.
        readers: Layers that read them as their input, with weights that can be divided.
        ceiling: True if one of the values is clamped by a ceiling, as of ReLU6.
    """

    values: tuple[str, ...]
    readers: tuple[FusedLayer, ...]
    ceiling: bool


def channel_groups(fused: FusedGraph, model: nn.Module) -> tuple[ChannelGroup, ...]:
    """Groups of the values of a network, in order, without the values whose factors are fixed.

    The summands of a residual and their sum are in one group, as are inputs and outputs of other
    operations with `equivariant`. The factors are 1 for images and logits, the values around all
    other operations, the input of an adder layer, and the output of a layer that cannot be
    multiplied: one that is used twice, an adder layer without batch norm, or a layer with a batch
    norm without weight.

    Args:
        fused: The graph.
        model: The network with the modules of the graph.
    """
    parents = {name: name for name in (fused.input, *(op.output for op in fused.ops))}
    uses = Counter(
        path
        for op in fused.ops
        if isinstance(op, FusedLayer)
        for path in (op.module, op.batch_norm)
    )

    def root(name: str) -> str:
        while parents[name] != name:
            name = parents[name]
        return name

    def join(*names: str) -> None:
        for name in names[1:]:
            parents[root(name)] = root(names[0])

    fixed = {fused.input, *fused.outputs.values()}
    for op in fused.ops:
        if isinstance(op, FusedLayer):
            if op.residual is not None:
                join(op.residual, op.output)
            if not op.form.linear or uses[op.module] > 1:
                fixed.add(op.input)
            if not _multiplies(op, model) or max(uses[op.module], uses[_writer(op)]) > 1:
                fixed.add(op.output)
        elif op.equivariant:
            join(*op.inputs, op.output)
        else:
            fixed |= {*op.inputs, op.output}
    excluded = {root(name) for name in fixed}
    members: dict[str, list[str]] = {}
    for name in parents:
        members.setdefault(root(name), []).append(name)
    return tuple(
        _group(fused, tuple(names)) for name, names in members.items() if name not in excluded
    )


def _group(fused: FusedGraph, values: tuple[str, ...]) -> ChannelGroup:
    return ChannelGroup(
        values=values,
        readers=tuple(op for op in fused.ops if isinstance(op, FusedLayer) and op.input in values),
        ceiling=any(_has_ceiling(op) for op in fused.ops if op.output in values),
    )


def _writer(op: FusedLayer) -> str:
    """Path of the module whose weight and bias multiply the output."""
    return op.module if op.batch_norm is None else op.batch_norm


def _multiplies(op: FusedLayer, model: nn.Module) -> bool:
    """Return True if weight and bias of the last module multiply the output."""
    if op.batch_norm is None:
        return op.form.linear
    return getattr(model.get_submodule(op.batch_norm), "weight", None) is not None


def _has_ceiling(op: FusedOp) -> bool:
    return isinstance(op, RectifiedOp) and op.ceiling is not None
