"""Graph of fused operations, and its execution in floating point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mulfree.quantization.fused_ops import BatchNorm, FusedLayer, FusedOp, LayerModule, Shape


@dataclass(frozen=True, kw_only=True)
class FusedGraph:
    """A network as fused operations.

    Attributes:
        input: Name of the images' value.
        shape: Its shape, C, H, W.
        ops: In topological order, output by output; the last one computes the last output.
        outputs: Names of the outputs, in order, and of the values that they are.
    """

    input: str
    shape: Shape
    ops: tuple[FusedOp, ...]
    outputs: Mapping[str, str]


def classifies(op: FusedOp) -> bool:
    """Return True for a classifier: a layer whose sums can stay in floating point."""
    return isinstance(op, FusedLayer) and op.classifies


def by_output(ops: Sequence[FusedOp], values: Sequence[str]) -> list[list[FusedOp]]:
    """Return what each of the `values` needs and none before it, in the order of `ops`."""
    makers = {op.output: op for op in ops}
    parts: list[list[FusedOp]] = []
    done: set[str] = set()
    for value in values:
        wanted, open_values = set[str](), [value]
        while open_values:
            name = open_values.pop()
            if name in makers and name not in wanted | done:
                wanted.add(name)
                open_values.extend(makers[name].inputs)
        parts.append([op for op in ops if op.output in wanted])
        done |= wanted
    return parts


class Hooks:
    """Hooks called for every tensor while a fused graph runs. The defaults are identities."""

    def value(self, name: str, x: Tensor) -> Tensor:
        """Replacement of the value `name`, which has its own scale."""
        return x

    def apply(self, layer: FusedLayer, module: LayerModule, x: Tensor) -> Tensor:
        """Output of the bare layer, before pooling, batch norm and residual."""
        x = self.operand(layer, x)
        weight = self.weight(layer, module)
        replaced = {} if weight is None else {"weight": weight}
        y: Tensor = functional_call(module, replaced, (x,))
        return y

    def operand(self, layer: FusedLayer, x: Tensor) -> Tensor:
        """Replacement of the input of a layer."""
        return x

    def batch_norm(self, layer: FusedLayer, norm: BatchNorm, x: Tensor, y: Tensor) -> Tensor:
        """Replacement of the batch-norm output `y`.

        Args:
            layer: The preceding layer.
            norm: The batch norm.
            x: Its input.
            y: Its output.
        """
        return y

    def weight(self, layer: FusedLayer, module: LayerModule) -> Tensor | None:
        """Replacement of the weight of a layer, or None to keep it."""
        return None


def execute(fused: FusedGraph, model: nn.Module, images: Tensor, hooks: Hooks) -> Tensor:
    """Logits of all outputs side by side, `[N, sum of their classes]`, in floating point.

    Args:
        fused: The graph.
        model: The network with the modules of the graph.
        images: `[N, C, H, W]`, normalised.
        hooks: Called for every quantised tensor; may replace it.
    """
    last_reader = {name: op for op in fused.ops for name in op.inputs}
    values = {fused.input: hooks.value(fused.input, images)}
    logits: dict[str, Tensor] = {}
    for op in fused.ops:
        if isinstance(op, FusedLayer):
            residual = None if op.residual is None else values[op.residual]
            module = op.layer(model)
            apply = partial(hooks.apply, op, module)
            batch_norm = partial(hooks.batch_norm, op)
            y = op.run(model, values[op.input], residual, apply, batch_norm)
        else:
            y = op.compute(*(values[name] for name in op.inputs))
        if op.rescales and not classifies(op):
            y = hooks.value(op.output, y)
        values[op.output] = y
        if op.output in fused.outputs.values():
            logits[op.output] = y.flatten(1)
        for name in set(op.inputs):
            if last_reader[name] is op:
                del values[name]
    found = [logits[value] for value in fused.outputs.values()]
    return found[0] if len(found) == 1 else torch.cat(found, dim=1)
