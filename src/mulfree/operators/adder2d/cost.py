"""Arithmetic of an adder layer."""

from __future__ import annotations

from torch import nn

from mulfree.opcounts import OpCounts
from mulfree.operators.operator import taps


def count(
    layer: nn.Module, input_shape: tuple[int, ...], output_shape: tuple[int, ...]
) -> OpCounts:
    """Two additions for every pair of input and weight: the difference and its accumulation."""
    return OpCounts(add=2) * taps(layer, output_shape)
