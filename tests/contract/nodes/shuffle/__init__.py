"""A toy node: channels of several groups in turn."""

from __future__ import annotations

from dataclasses import dataclass

from mulfree.nodes.node import Node, Shape, Size, Values


@dataclass(frozen=True, kw_only=True, eq=False)
class Shuffle(Node):
    op = "shuffle"
    keeps_grid = True

    groups: Size

    def output_shape(self, values: Values) -> Shape:
        shape = values[self.input].shape
        self.require(shape[0] % self.groups == 0, "groups", f"divide {shape[0]} channels")
        return shape


NODE = Shuffle
