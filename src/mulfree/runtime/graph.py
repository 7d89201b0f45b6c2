"""The quantised network as data, and the checks of a whole graph.

A graph is checked once, when it is made: every value is made before it is read and is read after
it was made, shapes follow from the nodes, and no sum leaves 64 bits. All of it is integers, whose
arithmetic each kind of node defines in `mulfree/nodes/<op>/reference.py`.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from mulfree import nodes
from mulfree.nodes import Node, Value
from mulfree.nodes.fields import Floats, Labels, Tensor, artifact_error, check_fields
from mulfree.nodes.node import Name, Size
from mulfree.opcounts import OpCounts
from mulfree.runtime.exits import Exits

MAX_NODES = 4096
MAX_ELEMENTS = 2**26
"""Largest number of integers of a value for one image, including its border."""
MAX_WORK = 2**41
"""Multiplications, additions, comparisons and copies for one image: four times the work of
ResNet-152 for 1024 x 1024 pixels."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Input:
    """Conversion of images to the first value.

    Pixels `u8[N, C, H, W]` become `table[c][pixel]`. An array `f32[N, C, H, W]` is taken as already
    normalised, `(pixel / 255 - mean) / std`, and becomes
    `clamp(round(x / scale) + zero, 0, 255)`, half to even.

    Attributes:
        value: Name of the value it makes; C is the number of channels (1 grey, 3 RGB).
        table: `u8[C, 256]`, the integer of each pixel.
        mean: Per channel, of pixels scaled to 0..1.
        std: Per channel, likewise.
        resize: Length of the shorter side after bilinear resizing of an image of another size; the
            middle square, then its middle H x W are cut out.
    """

    value: Name
    table: Annotated[NDArray[np.uint8], Tensor("uint8", 2)]
    mean: Annotated[tuple[float, ...], Floats()]
    std: Annotated[tuple[float, ...], Floats()]
    resize: Size


@dataclass(frozen=True, kw_only=True, eq=False)
class Graph:
    """A quantised network, from pixels to logits.

    Nodes run in the order given. Nodes that end make the outputs, whose names are their own: a
    value and an output may have the same name.

    Attributes:
        name: Name of the network.
        input: Conversion of images to the first value.
        values: All values, in any order.
        nodes: All nodes.
        classes: Names of the classes of the last output, or None.
        exits: When an image leaves at an earlier output, or None; outputs then have one size.

    Raises:
        ArtifactError: A field has the wrong type, shape or range, a name is unknown or used twice,
            a value is read before it is made, or never, or a sum could overflow.
    """

    name: Name
    input: Input
    values: tuple[Value, ...]
    nodes: tuple[Node, ...]
    classes: Annotated[tuple[str, ...] | None, Labels()] = None
    exits: Exits | None = None

    def __post_init__(self) -> None:
        check_fields("graph", self)
        self._check_kinds()
        check_fields("input", self.input)
        for index, value in enumerate(self.values):
            check_fields(f"values[{index}]", value)
        for index, node in enumerate(self.nodes):
            check_fields(f"nodes[{index}]", node)
        _check_unique("values", (value.name for value in self.values))
        _check_unique("nodes", (node.name for node in self.nodes))
        self._check_order()
        self._check_input()
        self._check_shapes()
        self._check_sizes()
        self._check_work()
        self._check_classes()
        if self.exits is not None:
            self._check_exits(self.exits)

    @functools.cached_property
    def by_name(self) -> Mapping[str, Value]:
        """The values by name."""
        return {value.name: value for value in self.values}

    @property
    def input_value(self) -> Value:
        """The first value."""
        return self.by_name[self.input.value]

    @functools.cached_property
    def output_sizes(self) -> Mapping[str, int]:
        """Number of logits of every output, by name."""
        ends = (node for node in self.nodes if node.ends)
        return {node.output: node.output_shape(self.by_name)[0] for node in ends}

    @property
    def outputs(self) -> int:
        """Number of logits of the last output."""
        return self.output_sizes[self.nodes[-1].output]

    def counts(self) -> tuple[OpCounts, ...]:
        """Return the multiplications and additions of every node for one image."""
        return tuple(node.count(self.by_name) for node in self.nodes)

    def counts_to_outputs(self) -> Mapping[str, OpCounts]:
        """Multiplications and additions for one image up to every output, by its name."""
        total, found = OpCounts(), {}
        for node, count in zip(self.nodes, self.counts(), strict=True):
            total += count
            if node.ends:
                found[node.output] = total
        return found

    def _check_kinds(self) -> None:
        for name, valid in (("values", _is_value), ("nodes", _is_node)):
            items = getattr(self, name)
            if not isinstance(items, tuple) or not all(map(valid, items)):
                raise artifact_error(name, f"be a tuple of {name}", items)
            if not 1 <= len(items) <= MAX_NODES:
                raise artifact_error(name, f"be 1 to {MAX_NODES}", len(items))
        if not isinstance(self.input, Input):
            raise artifact_error("input", "be an Input", self.input)

    def _check_order(self) -> None:
        """Check that every value is made once, before it is read, and read; and the outputs."""
        made, read = {self.input.value}, set()
        for node in self.nodes:
            for name in node.inputs:
                if name not in made:
                    raise artifact_error(f"{node.name}.input", "be made by an earlier node", name)
                read.add(name)
            if node.ends:
                continue
            if node.output in made:
                raise artifact_error(f"{node.name}.output", "be made only once", node.output)
            made.add(node.output)
        if not self.nodes[-1].ends:
            raise artifact_error("nodes", "end with an output", self.nodes[-1].op)
        _check_unique("outputs", (node.output for node in self.nodes if node.ends))
        for name in sorted(made ^ set(self.by_name)):
            requirement = "be a declared value" if name in made else "be made by a node"
            raise artifact_error("values", requirement, name)
        for name in sorted(made - read):
            raise artifact_error("values", "be read by a node", name)

    def _check_input(self) -> None:
        channels, *sides = self.input_value.shape
        if self.input.table.shape != (channels, 256):
            raise artifact_error("input.table", f"be [{channels}, 256]", self.input.table)
        for name in ("mean", "std"):
            if len(getattr(self.input, name)) != channels:
                raise artifact_error(
                    f"input.{name}", f"have {channels} elements", getattr(self.input, name)
                )
        if min(self.input.std) <= 0.0:
            raise artifact_error("input.std", "be positive", self.input.std)
        if self.input.resize < max(sides):
            raise artifact_error(
                "input.resize", f"be at least the input's side {max(sides)}", self.input.resize
            )

    def _check_shapes(self) -> None:
        for node in self.nodes:
            shape = node.output_shape(self.by_name)
            if node.ends:
                continue
            made = self.by_name[node.output]
            if made.shape != shape:
                raise artifact_error(
                    f"{made.name}.shape", f"be {shape} as {node.name} makes", made.shape
                )
            meaning = (made.scale, made.zero_point)
            for source in (self.by_name[name] for name in node.inputs):
                if node.keeps_grid and meaning != (source.scale, source.zero_point):
                    raise artifact_error(
                        made.name, f"have scale and zero point of {source.name}", meaning
                    )

    def _check_sizes(self) -> None:
        """Check that each value fits into memory with the widest borders of its readers."""
        borders = {value.name: (0, 0) for value in self.values}
        for node in self.nodes:
            sides = zip(borders[node.input], node.border(self.by_name), strict=True)
            rows, columns = (max(pair) for pair in sides)
            borders[node.input] = rows, columns
        for value in self.values:
            channels, rows, columns = value.shape
            row_border, column_border = borders[value.name]
            elements = channels * (rows + 2 * row_border) * (columns + 2 * column_border)
            if elements > MAX_ELEMENTS:
                raise artifact_error(
                    f"{value.name}.shape",
                    f"have at most {MAX_ELEMENTS} elements with its borders",
                    value.shape,
                )

    def _check_work(self) -> None:
        work = sum(node.work(self.by_name) for node in self.nodes)
        if work > MAX_WORK:
            raise artifact_error("nodes", f"take at most {MAX_WORK} operations for one image", work)

    def _check_classes(self) -> None:
        if self.classes is not None and len(self.classes) != self.outputs:
            raise artifact_error("classes", f"have {self.outputs} names", len(self.classes))

    def _check_exits(self, exits: Exits) -> None:
        if not isinstance(exits, Exits):
            raise artifact_error("exits", "be Exits or None", exits)
        check_fields("exits", exits)
        sizes = list(self.output_sizes.values())
        if len(sizes) < 2 or len(set(sizes)) > 1:
            raise artifact_error("exits", "be None without several outputs of one size", sizes)
        given, count = exits.thresholds, len(sizes) - 1
        if len(given) != count or min(given) < 0:
            what = f"be {count} numbers of at least 0, one for each output but the last"
            raise artifact_error("exits.thresholds", what, given)


def _is_value(item: object) -> bool:
    return isinstance(item, Value)


def _is_node(item: object) -> bool:
    op = getattr(item, "op", None)
    return op in nodes.NODES and isinstance(item, nodes.get_node(op))


def _check_unique(what: str, names: Iterator[str]) -> None:
    ordered = sorted(names)
    for name, following in itertools.pairwise(ordered):
        if name == following:
            raise artifact_error(what, "have names of their own", name)
