"""From a trained network to integers: lowering, calibration, and rounding in training."""

from __future__ import annotations

from mulfree.quantization.calibration import Ranges as Ranges
from mulfree.quantization.observers import OBSERVERS as OBSERVERS
from mulfree.quantization.preprocessing import Pictures as Pictures
from mulfree.quantization.qparams import BITS as BITS
from mulfree.quantization.quantize import quantize as quantize
