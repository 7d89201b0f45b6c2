"""Arithmetic of a convolution."""

from __future__ import annotations

from torch import nn

from mulfree.operators.operator import Cost, taps


def count(layer: nn.Module, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> Cost:
    """One multiplication and one addition for every pair of input and weight."""
    pairs = taps(layer, output_shape)
    return Cost(mul=pairs, add=pairs)
