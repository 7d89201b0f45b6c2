"""Operators as layers, next to `torch.nn`."""

from __future__ import annotations

from mulfree.operators.adder2d import Adder2d as Adder2d
from mulfree.operators.adder2d import AdderLinear as AdderLinear
