"""Compiled kernels, without torch: arrays in, arrays out, one module for all operators."""

from __future__ import annotations

from mulfree._native._core import adder2d_forward as adder2d_forward
from mulfree._native._core import adder2d_input_grad as adder2d_input_grad
from mulfree._native._core import adder2d_weight_grad as adder2d_weight_grad
from mulfree._native._core import supported_isas as supported_isas
