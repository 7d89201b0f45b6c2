"""Elementwise functions that a forward spells by several operations, such as `x * sigmoid(x)`."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import fx, nn

from mulfree.nodes.fusing import (
    DIFFERENCES,
    NEGATIONS,
    PRODUCTS,
    QUOTIENTS,
    SUMS,
    Composition,
    Step,
    source_of,
)

_POWERS = (
    *(operator.pow, torch.pow, "pow", torch.square, "square", torch.abs, "abs"),
    *(torch.exp, "exp", torch.erf, "erf", torch.sqrt, "sqrt", torch.rsqrt, "rsqrt"),
)
_ARITHMETIC = (*SUMS, *DIFFERENCES, *PRODUCTS, *QUOTIENTS, *NEGATIONS, *_POWERS)

ModuleOf: TypeAlias = Callable[[fx.Node], nn.Module | None]


def compose(graph: fx.Graph, module_of: ModuleOf, elementwise: tuple[type[nn.Module], ...]) -> None:
    """Replace operations that compute an elementwise function of one tensor by one operation.

    These are products and quotients of functions of one tensor, sums with a number, and powers,
    with the operations between them and that tensor and with elementwise operations after them. A
    sum of two functions of one tensor is left as it is unless it is a part of these.

    Args:
        graph: Traced operations.
        module_of: Returns the module that an operation equals, or None.
        elementwise: Classes of elementwise modules without parameters.
    """
    compositions = _Compositions(graph, module_of, elementwise)
    for node in reversed(compositions.seeds):
        # A later seed may have replaced this one.
        if node.users:
            compositions.replace(node)


class _Compositions:
    """Operations on one tensor, each with the tensors that it is a function of, nearest first."""

    def __init__(
        self, graph: fx.Graph, module_of: ModuleOf, elementwise: tuple[type[nn.Module], ...]
    ) -> None:
        self._graph, self._module_of, self._elementwise = graph, module_of, elementwise
        self._sources: dict[fx.Node, list[fx.Node]] = {}
        for node in graph.nodes:
            self._sources[node] = self._find_sources(node)
        self.seeds = [node for node in graph.nodes if self._is_seed(node)]

    def _find_sources(self, node: fx.Node) -> list[fx.Node]:
        operands = node.all_input_nodes
        same = all(operand.meta.get("shape") == node.meta.get("shape") for operand in operands)
        if not operands or not same or not self._is_elementwise(node):
            return []
        first, *others = ([operand, *self._sources[operand]] for operand in operands)
        return [source for source in first if all(source in other for other in others)]

    def _is_elementwise(self, node: fx.Node) -> bool:
        if _is_arithmetic(node, _ARITHMETIC):
            return True
        return node.op != "output" and isinstance(self._module_of(node), self._elementwise)

    def _is_seed(self, node: fx.Node) -> bool:
        if not self._sources[node]:
            return False
        tensors = all(isinstance(operand, fx.Node) for operand in node.args)
        if _is_arithmetic(node, (*PRODUCTS, *QUOTIENTS)):
            return tensors and not node.kwargs
        return _is_arithmetic(node, _POWERS) or (
            _is_arithmetic(node, (*SUMS, *DIFFERENCES)) and not tensors
        )

    def replace(self, last: fx.Node) -> None:
        """Replace the function that ends with `last`, or with elementwise operations after it."""
        source = self._sources[last][0]
        while (following := self._following(last)) is not None:
            last = following
        inside = self._inside(source, last)
        # An elementwise operation that nothing else reads joins the function that reads it.
        while self._sources[source] and set(source.users) <= set(inside):
            source = self._sources[source][0]
            inside = self._inside(source, last)
        with self._graph.inserting_before(last):
            composition = Composition(source, [self._step(node) for node in inside])
            name = f"{last.name}_composed"
            made = self._graph.create_node("call_function", composition, (source,), {}, name)
        made.meta = dict(last.meta)
        self._sources[made] = [source, *self._sources[source]]
        last.replace_all_uses_with(made)
        for node in reversed(inside):
            if not node.users:
                self._graph.erase_node(node)

    def _following(self, node: fx.Node) -> fx.Node | None:
        """The only reader of an operation if it is elementwise and reads nothing else."""
        users = list(node.users)
        if len(users) != 1 or users[0].all_input_nodes != [node] or not self._sources[users[0]]:
            return None
        return users[0]

    def _inside(self, source: fx.Node, last: fx.Node) -> list[fx.Node]:
        """Operations from `source`, without it, to `last`, in order."""
        needed = {last}
        for node in reversed(self._graph.nodes):
            if node in needed:
                needed.update(operand for operand in node.all_input_nodes if operand is not source)
        return [node for node in self._graph.nodes if node in needed]

    def _step(self, node: fx.Node) -> Step:
        module = None if _is_arithmetic(node, _ARITHMETIC) else self._module_of(node)
        if module is not None:
            return Step(result=node, call=module, args=(source_of(node),), kwargs={})
        target = node.target
        call = getattr(torch.Tensor, target) if isinstance(target, str) else target
        return Step(result=node, call=call, args=node.args, kwargs=dict(node.kwargs))


def _is_arithmetic(node: fx.Node, targets: tuple[object, ...]) -> bool:
    return node.op in ("call_function", "call_method") and node.target in targets
