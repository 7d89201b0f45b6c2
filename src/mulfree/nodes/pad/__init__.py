"""A border of zeros."""

from __future__ import annotations

from dataclasses import dataclass

from mulfree.nodes.node import Border, Node, Shape, Values


@dataclass(frozen=True, kw_only=True, eq=False)
class Pad(Node):
    """A border of the value's zero that no layer can take as its padding.

    Attributes:
        left: Columns before the first.
        right: Columns after the last.
        top: Rows above.
        bottom: Rows below.
    """

    op = "pad"
    keeps_grid = True

    left: Border
    right: Border
    top: Border
    bottom: Border

    def output_shape(self, values: Values) -> Shape:
        """Return `[C, H + top + bottom, W + left + right]`."""
        channels, rows, columns = values[self.input].shape
        return channels, rows + self.top + self.bottom, columns + self.left + self.right


NODE = Pad
