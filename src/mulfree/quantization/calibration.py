"""What is learned from images without labels: the ranges of values, and their statistics anew."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mulfree.errors import ConfigError, quoted
from mulfree.quantization.fake_quantize import FakeQuantise, lattice_of
from mulfree.quantization.fused_graph import Hooks, execute
from mulfree.quantization.fused_ops import NORMS, Layer
from mulfree.quantization.observers import Range, observe
from mulfree.quantization.qparams import Grid, Layout

_LARGEST = 1e30
# Times the squared distance of the logits that a correction may make it.
_HARM = 10.0

Ranges = Mapping[str, tuple[float, float]]
"""Least and greatest number of every grid of a layout, by its name."""


class _Watch(Hooks):
    """Remembers the hull of the ranges of all batches."""

    def __init__(self, layout: Layout, observer: str) -> None:
        self._layout = layout
        self._observer = observer
        self.ranges: dict[str, Range] = {}

    def value(self, name: str, x: Tensor) -> Tensor:
        # Of pixels all count: their range is known, and nothing is gained by cutting it.
        observer = "minmax" if name == self._layout.plan.input else self._observer
        low, high = observe(observer, self._layout.grids[name], x)
        least, greatest = x.aminmax()
        # Sorted, one number that is none could be left out. Larger ones have no scale.
        if not (least >= -_LARGEST and greatest <= _LARGEST):
            steps = self._layout.plan.steps
            original = self._layout.original(name)
            path = next((step.path for step in steps if step.output == original), "its input")
            raise ConfigError(
                f"quantize: `model` must compute finite numbers up to {_LARGEST:.0e} of `batches`, "
                f"got {float(least):.3g} to {float(greatest):.3g} at {path}"
            )
        old_low, old_high = self.ranges.get(name, (low, high))
        self.ranges[name] = torch.minimum(low, old_low), torch.maximum(high, old_high)
        return x

    def operand(self, layer: Layer, x: Tensor) -> Tensor:
        name = self._layout.operand(layer)
        return x if name in self._layout.roots else self.value(name, x)


@torch.no_grad()
def find_ranges(
    layout: Layout, model: nn.Module, images: Sequence[Tensor], observer: str
) -> Ranges:
    """The range of every grid over batches of images.

    Args:
        layout: The grids.
        model: The network, in evaluation mode.
        images: Batches `[N, C, H, W]`.
        observer: One of `OBSERVERS`.

    Raises:
        ConfigError: A number is not finite, or larger than a scale can be for.
    """
    watch = _Watch(layout, observer)
    for batch in images:
        execute(layout.plan, model, batch, watch)
    return {name: (float(low), float(high)) for name, (low, high) in watch.ranges.items()}


def make_grids(layout: Layout, ranges: Ranges, *, shift_only: bool = False) -> dict[str, Grid]:
    """The grids over ranges.

    Args:
        layout: Bits of the grids.
        ranges: What they reach over; a copy without a range has its value's.
        shift_only: Choose scales that are powers of two times `layout.units`.

    Raises:
        ConfigError: A value has no range, or one that is not of two finite numbers.
    """
    grids: dict[str, Grid] = {}
    for name, bits in layout.grids.items():
        known = next((n for n in (name, layout.original(name)) if n in ranges), None)
        if known is None:
            raise ConfigError(
                f"quantize: `ranges` must hold a range of every value, got none of {name}"
            )
        unit = layout.units[name] if shift_only else None
        low, high = _limits(known, ranges[known])
        grids[name] = Grid.over(low, high, bits, power_of_two=unit)
    return grids


def _limits(name: str, limits: Any) -> tuple[float, float]:
    try:
        low, high = map(float, limits)
    except (TypeError, ValueError):
        low, high = math.nan, math.nan
    if not -_LARGEST <= low <= high <= _LARGEST:
        raise ConfigError(
            "quantize: `ranges` must hold pairs of finite numbers, the least and the greatest, "
            f"got {quoted(limits)} for {name}"
        )
    return low, high


@torch.no_grad()
def correct_norms(
    layout: Layout,
    model: nn.Module,
    images: Sequence[Tensor],
    grids: Mapping[str, Grid],
    *,
    shift_only: bool = False,
) -> None:
    """Corrects the statistics of every batch normalisation for what rounding does to its input.

    Rounding moves the distances that an adder layer sums up, all in one direction, and with them
    the mean and variance of its results. Both are measured on the same images with and without
    rounding; the difference of the means is added to the running mean, and the running variance is
    multiplied by the ratio of the variances. The statistics that were measured are not used
    themselves, as those of training belong to more and augmented images.

    Args:
        layout: The grids' places.
        model: The network in evaluation mode, changed in place.
        images: Batches `[N, C, H, W]`.
        grids: The grids.
        shift_only: Whether factors become powers of two.
    """
    before = _statistics(layout, model, images, Hooks())
    after = _statistics(layout, model, images, _rounding(layout, grids, shift_only))
    for path, (mean, variance) in before.items():
        norm = model.get_submodule(path)
        assert isinstance(norm, NORMS)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        new_mean, new_variance = after[path]
        norm.running_mean += new_mean - mean
        # A filter whose result never changes has no variance to correct.
        norm.running_var *= torch.where(variance > 0, new_variance / variance, 1.0)


@torch.no_grad()
def corrected_unless_harmful(
    layout: Layout,
    model: nn.Module,
    images: Sequence[Tensor],
    grids: Mapping[str, Grid],
    *,
    shift_only: bool = False,
) -> nn.Module:
    """A copy of the network after `correct_norms`, or the network where that does harm.

    The correction is measured under the statistics of `images`. Where the running statistics are
    others, as early in training, it multiplies the squared distance between the rounded logits and
    those of `model` by a thousand and more; in trained networks by 0.5 to 2.

    Args:
        layout: See `correct_norms`, as for all arguments.
        model: Not changed.
        images: Batches.
        grids: The grids.
        shift_only: Whether factors become powers of two.
    """
    corrected = copy.deepcopy(model)
    correct_norms(layout, corrected, images, grids, shift_only=shift_only)
    exact = [execute(layout.plan, model, batch, Hooks()) for batch in images]

    def distance(network: nn.Module) -> float:
        rounding = _rounding(layout, grids, shift_only)
        return sum(
            float((execute(layout.plan, network, batch, rounding) - logits).square().sum())
            for batch, logits in zip(images, exact, strict=True)
        )

    return corrected if distance(corrected) <= _HARM * distance(model) else model


def _rounding(layout: Layout, grids: Mapping[str, Grid], shift_only: bool) -> Hooks:
    lattices = {name: lattice_of(grid) for name, grid in grids.items()}
    return FakeQuantise(layout, lambda name, _: lattices[name], shift_only=shift_only)


def _statistics(
    layout: Layout, model: nn.Module, images: Sequence[Tensor], hooks: Hooks
) -> dict[str, Range]:
    """Mean and variance over all images of what every batch normalisation gets, by its path."""
    measured = copy.deepcopy(model)
    norms = {path: m for path, m in measured.named_modules() if isinstance(m, NORMS)}
    for norm in norms.values():
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    for batch in images:
        execute(layout.plan, measured, batch, hooks)
    found = {}
    for path, norm in norms.items():
        assert norm.running_mean is not None
        assert norm.running_var is not None
        found[path] = norm.running_mean, norm.running_var
    return found
