"""Quantisation: calibration, lowering to integers, and fake quantisation for training."""

from __future__ import annotations

from mulfree.quantization.calibration import Ranges as Ranges
from mulfree.quantization.depths import quantize_depths as quantize_depths
from mulfree.quantization.dynamic_resolution import quantize_resolutions as quantize_resolutions
from mulfree.quantization.observers import OBSERVERS as OBSERVERS
from mulfree.quantization.preprocessing import Preprocessing as Preprocessing
from mulfree.quantization.qparams import BITS as BITS
from mulfree.quantization.quantize import quantize as quantize
