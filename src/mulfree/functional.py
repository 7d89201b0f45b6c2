"""Operators as functions, next to `torch.nn.functional`."""

from __future__ import annotations

from mulfree.operators.adder2d import adder2d as adder2d
from mulfree.operators.adder2d import adder_linear as adder_linear
