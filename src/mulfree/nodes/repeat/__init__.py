"""Nearest-neighbour upsampling."""

from __future__ import annotations

from dataclasses import dataclass

from mulfree.nodes.node import Node, Shape, Size, Values


@dataclass(frozen=True, kw_only=True, eq=False)
class Repeat(Node):
    """Nearest-neighbour upsampling: every position `factor` times in both directions.

    Attributes:
        factor: At least 1.
    """

    op = "repeat"
    keeps_grid = True

    factor: Size

    def output_shape(self, values: Values) -> Shape:
        """Return `[C, factor * H, factor * W]`."""
        channels, rows, columns = values[self.input].shape
        return channels, rows * self.factor, columns * self.factor


NODE = Repeat
