"""Arithmetic of an adder layer."""

from __future__ import annotations

from torch import nn

from mulfree.operators.operator import Cost, taps


def count(layer: nn.Module, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> Cost:
    """Two additions for every pair of input and weight: the difference and its accumulation."""
    return Cost(add=2 * taps(layer, output_shape))
