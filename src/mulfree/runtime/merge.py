"""Entry points of one network as one graph, in which equal nodes are computed once."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Hashable, Mapping
from typing import Any

from mulfree.errors import ConfigError, quoted
from mulfree.nodes import Node, Value
from mulfree.nodes.fields import Text, Texts, field_checks, tensors
from mulfree.runtime.graph import Graph


def merge(graphs: Mapping[str, Graph]) -> Graph:
    """Merge networks of one input into one graph, with the outputs of all, by name.

    A node is computed once if another graph has one of equal kind, fields and tensors that reads
    the same values (common-subexpression elimination): sub-nets share all up to the first node in
    which they differ.

    Args:
        graphs: Networks with one output each, in the order of the outputs.

    Raises:
        ConfigError: There is no graph, or one with several outputs or another input.
        ArtifactError: The whole exceeds the limits of a graph.
    """
    if not graphs:
        raise ConfigError("runtime.merge: `graphs` must hold a graph, got none")
    first = next(iter(graphs.values()))
    merger = _Merger()
    for name, graph in graphs.items():
        if len(graph.output_sizes) > 1:
            raise ConfigError(
                f"runtime.merge: `graphs` must have one output each, got {quoted(name)} with "
                f"{len(graph.output_sizes)}"
            )
        if _input_key(graph) != _input_key(first):
            raise ConfigError(
                f"runtime.merge: `graphs` must read the same input, got another one in "
                f"{quoted(name)}"
            )
        merger.add(name, graph)
    last = list(graphs.values())[-1]
    start = merger.names[first.input_value.name, first]
    return Graph(
        name=last.name,
        input=dataclasses.replace(first.input, value=start),
        values=tuple(merger.values.values()),
        nodes=tuple(merger.nodes.values()),
        classes=last.classes,
    )


class _Merger:
    """Values and nodes by their new names, as graphs are added."""

    def __init__(self) -> None:
        self.values: dict[str, Value] = {}
        self.nodes: dict[str, Node] = {}
        self.names: dict[tuple[str, Graph], str] = {}
        self._known: dict[Hashable, str] = {}

    def add(self, output: str, graph: Graph) -> None:
        """Add the nodes of a graph that are new, and its output under a name."""
        names: dict[str, str] = {}
        start = graph.input_value
        names[start.name] = self._value(start, ())
        self.names[start.name, graph] = names[start.name]
        for node in graph.nodes:
            key = _key(node, names)
            if not node.ends:
                made = graph.by_name[node.output]
                known = (*key, made.shape, made.scale, made.zero_point)
                new = known not in self._known
                names[node.output] = self._value(made, known)
                if not new:
                    continue
            self._append(_renamed(node, names, output))

    def _value(self, value: Value, key: Hashable) -> str:
        """Name of a value, which is added if no value has its key."""
        if key not in self._known:
            name = _free(value.name, self.values)
            self._known[key] = name
            self.values[name] = dataclasses.replace(value, name=name)
        return self._known[key]

    def _append(self, node: Node) -> None:
        name = _free(node.name, self.nodes)
        self.nodes[name] = dataclasses.replace(node, name=name)


def _free(name: str, taken: Mapping[str, object]) -> str:
    """`name`, followed by a number if it is taken."""
    found, number = name, 2
    while found in taken:
        found, number = f"{name}.{number}", number + 1
    return found


def _links(node: Node) -> dict[str, Any]:
    """Fields of a node that name the values it reads."""
    checks = field_checks(type(node)).items()
    return {
        name: getattr(node, name)
        for name, check in checks
        if isinstance(check, Text | Texts) and name not in ("name", "output")
    }


def _renamed(node: Node, names: Mapping[str, str], output: str) -> Node:
    """The node with the new names of its values."""
    changed: dict[str, Any] = {
        field: tuple(names[name] for name in link) if isinstance(link, tuple) else names[link]
        for field, link in _links(node).items()
        if link is not None
    }
    changed["output"] = output if node.ends else names[node.output]
    return dataclasses.replace(node, **changed)


def _key(node: Node, names: Mapping[str, str]) -> tuple[Hashable, ...]:
    """Identity of a node's result: its kind, fields, tensors and the new names of its operands."""
    links, held = _links(node), tensors(node)
    links = {
        field: tuple(names[name] for name in link) if isinstance(link, tuple) else names.get(link)
        for field, link in links.items()
    }
    plain = {
        name: getattr(node, name)
        for name in field_checks(type(node))
        if name not in ("name", "output", *links, *held)
    }
    digests = {name: _digest(tensor) for name, tensor in held.items()}
    return (node.op, *(tuple(part.items()) for part in (links, plain, digests)))


def _digest(tensor: Any) -> tuple[str, tuple[int, ...], bytes]:
    return tensor.dtype.str, tensor.shape, hashlib.sha256(tensor.data).digest()


def _input_key(graph: Graph) -> tuple[Hashable, ...]:
    given, value = graph.input, graph.input_value
    meaning = (value.shape, value.scale, value.zero_point)
    return (*meaning, given.mean, given.std, given.resize, given.table.tobytes())
