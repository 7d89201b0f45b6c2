"""Arithmetic of a convolution."""

from __future__ import annotations

from torch import nn

from mulfree.opcounts import OpCounts
from mulfree.operators.operator import taps


def count(
    layer: nn.Module, input_shape: tuple[int, ...], output_shape: tuple[int, ...]
) -> OpCounts:
    """One multiplication and one addition for every pair of input and weight."""
    return OpCounts(mul=1, add=1) * taps(layer, output_shape)
