"""Calibration: ranges of values measured on images, and the quantisation parameters for them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mulfree.errors import ConfigError, quoted
from mulfree.quantization.fused_graph import Hooks, execute
from mulfree.quantization.fused_ops import FusedLayer
from mulfree.quantization.layout import QuantLayout
from mulfree.quantization.observers import Range, observe
from mulfree.quantization.qparams import QuantParams

_MAX_MAGNITUDE = 1e30

Ranges = Mapping[str, tuple[float, float]]
"""Smallest and largest number by the name of the quantisation parameters."""


class _RangeRecorder(Hooks):
    """Record the union of the ranges of all batches."""

    def __init__(self, layout: QuantLayout, observer: str) -> None:
        self._layout = layout
        self._observer = observer
        self.ranges: dict[str, Range] = {}

    def value(self, name: str, x: Tensor) -> Tensor:
        # Never clip pixels: their range is known.
        observer = "minmax" if name == self._layout.fused.input else self._observer
        clamped = self._layout.clamped(name, x)
        low, high = observe(observer, self._layout.bit_widths[name], clamped)
        least, greatest = x.aminmax()
        # Checked on all numbers: a percentile can leave out a NaN. Larger numbers have no scale.
        if not (least >= -_MAX_MAGNITUDE and greatest <= _MAX_MAGNITUDE):
            original = self._layout.original(name)
            ops = self._layout.fused.ops
            path = next((op.path for op in ops if op.output == original), "its input")
            raise ConfigError(
                f"quantize: `model` must compute finite numbers up to {_MAX_MAGNITUDE:.0e} of "
                f"`batches`, got {float(least):.3g} to {float(greatest):.3g} at {path}"
            )
        old_low, old_high = self.ranges.get(name, (low, high))
        self.ranges[name] = torch.minimum(low, old_low), torch.maximum(high, old_high)
        return x

    def operand(self, layer: FusedLayer, x: Tensor) -> Tensor:
        name = self._layout.operand(layer)
        return x if name in self._layout.roots else self.value(name, x)


@torch.no_grad()
def find_ranges(
    layout: QuantLayout, model: nn.Module, images: Sequence[Tensor], observer: str
) -> Ranges:
    """Ranges of all values over batches of images.

    Args:
        layout: Bit widths and shared scales.
        model: The network, in evaluation mode.
        images: Batches `[N, C, H, W]`.
        observer: One of `OBSERVERS`.

    Raises:
        ConfigError: A number is not finite, or too large for a scale.
    """
    recorder = _RangeRecorder(layout, observer)
    for batch in images:
        execute(layout.fused, model, batch, recorder)
    return {name: (float(low), float(high)) for name, (low, high) in recorder.ranges.items()}


def make_qparams(
    layout: QuantLayout, ranges: Ranges, *, power_of_two_scales: bool = False
) -> dict[str, QuantParams]:
    """Quantisation parameters for ranges.

    Args:
        layout: Bit widths and shared scales.
        ranges: Ranges by name; a copy without a range has the range of its value.
        power_of_two_scales: Choose scales that are powers of two times `layout.units`.

    Raises:
        ConfigError: A range is missing or is not a pair of finite numbers.
    """
    made: dict[str, QuantParams] = {}
    for name, bits in layout.bit_widths.items():
        known = next((n for n in (name, layout.original(name)) if n in ranges), None)
        if known is None:
            raise ConfigError(
                f"quantize: `ranges` must hold a range of every value, got none of {name}"
            )
        unit = layout.units[name] if power_of_two_scales else None
        low, high = _limits(known, ranges[known])
        made[name] = QuantParams.from_range(low, high, bits, power_of_two=unit)
    return made


def _limits(name: str, limits: Any) -> tuple[float, float]:
    try:
        low, high = map(float, limits)
    except (TypeError, ValueError):
        low, high = math.nan, math.nan
    if not -_MAX_MAGNITUDE <= low <= high <= _MAX_MAGNITUDE:
        raise ConfigError(
            "quantize: `ranges` must hold pairs of finite numbers, the least and the greatest, "
            f"got {quoted(limits)} for {name}"
        )
    return low, high
