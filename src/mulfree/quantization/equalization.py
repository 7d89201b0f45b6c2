"""Cross-layer equalisation: channels of one value brought to similar ranges.

All channels of a value share one scale, so channels of a small range keep few of its integers. A
factor of a channel passes through every operation that scales with its input; the layer that writes
the channel multiplies its batch norm by it, the layers that read the channel divide their weights.

References:
    Nagel et al., arXiv 1906.04721, section 4.1; Meller et al., arXiv 1902.01917.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mulfree.quantization.calibration import find_ranges, make_qparams
from mulfree.quantization.channel_groups import ChannelGroup, channel_groups
from mulfree.quantization.fake_quantize import FakeQuantize
from mulfree.quantization.fused_graph import FusedGraph, Hooks, execute
from mulfree.quantization.fused_ops import FusedLayer, LayerModule
from mulfree.quantization.layout import QuantLayout

# Unseen images exceed the ranges measured: with 8 or 16 MobileNetV2 rounds worse on calibration
# pictures left out.
_MAX_FACTOR = 4.0
# Least share, against a division by zero.
_LEAST = 1e-9


@torch.no_grad()
def equalize(
    layout: QuantLayout,
    model: nn.Module,
    images: Sequence[Tensor],
    *,
    observer: str,
    power_of_two_scales: bool = False,
) -> nn.Module:
    """Copy of a network with equalised channels, or the network itself if this rounds better.

    Two copies are tried: one equalises only the channels that depthwise layers read, whose weights
    have a scale for every channel; the other all. The network with the least squared error of the
    rounded logits of the first batch is returned.

    The logits are unchanged up to the rounding of floating point. An exception is a number beyond
    its channel's range over `images` in a layer with ReLU6: the ceiling clips it to that range.

    Args:
        layout: Bit widths and shared scales.
        model: The network in evaluation mode, not changed.
        images: Batches `[N, C, H, W]`.
        observer: One of `OBSERVERS`.
        power_of_two_scales: Round every factor to a power of two.

    Raises:
        ConfigError: A number is not finite, or too large for a scale.
    """
    groups = channel_groups(layout.fused, model)
    if not groups:
        return model
    peaks = channel_peaks(layout.fused, model, images)
    depthwise = [group for group in groups if all(map(_is_depthwise, _readers(model, group)))]
    first = images[:1]
    exact = execute(layout.fused, model, first[0], Hooks())

    def error(network: nn.Module) -> float:
        ranges = find_ranges(layout, network, first, observer)
        qparams = make_qparams(layout, ranges, power_of_two_scales=power_of_two_scales)
        tensors = {name: params.tensors() for name, params in qparams.items()}
        hooks = FakeQuantize(
            layout, lambda name, _: tensors[name], power_of_two_scales=power_of_two_scales
        )
        return float((execute(layout.fused, network, first[0], hooks) - exact).square().sum())

    networks = [model]
    for chosen in [depthwise, groups] if 0 < len(depthwise) < len(groups) else [groups]:
        factors: dict[str, Tensor] = {}
        for group in chosen:
            factors |= dict.fromkeys(group.values, channel_factors(model, group, peaks))
        networks.append(rescaled(layout.fused, model, factors))
    return min(networks, key=error)


class _PeakRecorder(Hooks):
    """Record the largest magnitude of every channel."""

    def __init__(self) -> None:
        self.peaks: dict[str, Tensor] = {}

    def value(self, name: str, x: Tensor) -> Tensor:
        peak = x.abs().amax((0, 2, 3))
        self.peaks[name] = torch.maximum(peak, self.peaks.get(name, peak))
        return x


@torch.no_grad()
def channel_peaks(
    fused: FusedGraph, model: nn.Module, images: Sequence[Tensor]
) -> Mapping[str, Tensor]:
    """Largest magnitude of every channel, `[C]`, by the names of values with their own scale.

    Args:
        fused: The graph.
        model: The network in evaluation mode.
        images: Batches `[N, C, H, W]`.
    """
    recorder = _PeakRecorder()
    for batch in images:
        execute(fused, model, batch, recorder)
    return recorder.peaks


def channel_factors(model: nn.Module, group: ChannelGroup, peaks: Mapping[str, Tensor]) -> Tensor:
    """Factors `[C]` for the channels of the values of a group.

    With m the channel's share of the largest number of its value, and w the share of its largest
    weight of the largest weight of a filter, the factor is proportional to sqrt(w / m), the
    geometric mean of the factor best for the value, 1 / m, and the factor best for the weights, w.
    If only depthwise layers read the channel, it is 1 / m.

    Factors lie between 1/4 and 4; in a group with a ceiling between 1 and 1 / m: a larger factor
    moves numbers beyond the ceiling, and a smaller one moves the ceiling itself.

    Args:
        model: The network.
        group: Values whose channels have the same factors.
        peaks: Largest magnitude of every channel.

    References:
        arXiv 1906.04721, equation 11.
    """
    measured = [peaks[name] for name in group.values if name in peaks]
    share = torch.stack([peak / peak.max().clamp(min=_LEAST) for peak in measured]).amax(0)
    limit = 1 / share.clamp(min=_LEAST)
    products = [layer for layer in _readers(model, group) if not _is_depthwise(layer)]
    factors = limit
    if products:
        weights = torch.stack([_weight_share(layer, len(limit)) for layer in products]).amax(0)
        factors = (weights * limit).sqrt()
    factors = factors / (factors * share).max().clamp(min=_LEAST)
    least = 1.0 if group.ceiling else 1 / _MAX_FACTOR
    factors = factors.clamp(least, _MAX_FACTOR)
    if group.ceiling:
        factors = torch.minimum(factors, limit)
    # The range of a channel that is always zero is unknown.
    return torch.where(share > 0, factors, 1.0)


@torch.no_grad()
def rescaled(fused: FusedGraph, model: nn.Module, factors: Mapping[str, Tensor]) -> nn.Module:
    """Copy of a network whose channels are multiplied by factors, with the same logits.

    Args:
        fused: The graph.
        model: The network, not changed.
        factors: Factors `[C]` by value, the same for all values of a channel group.
    """
    network = copy.deepcopy(model)
    for op in fused.ops:
        if not isinstance(op, FusedLayer):
            continue
        layer = op.layer(network)
        if op.input in factors:
            columns = factors[op.input][_channels(layer, len(factors[op.input]))]
            _set(layer, "weight", (_columns(layer, columns.shape[1]) / columns[..., None]))
        if op.output in factors:
            writer = layer if op.batch_norm is None else network.get_submodule(op.batch_norm)
            for name in ("weight", "bias"):
                _multiply(writer, name, factors[op.output])
    return network


def _readers(model: nn.Module, group: ChannelGroup) -> list[LayerModule]:
    return [op.layer(model) for op in group.readers]


def _is_depthwise(layer: LayerModule) -> bool:
    """Return True if every filter reads one channel; its scale takes in the factor."""
    weight: Tensor = layer.weight
    return weight.ndim == 4 and weight.shape[1] == 1


def _weight_share(layer: LayerModule, channels: int) -> Tensor:
    """Largest share of each channel of the largest weight of a filter, `[C]`."""
    index = _channels(layer, channels)
    peaks = _columns(layer, index.shape[1]).abs().amax(2)
    share = peaks / peaks.amax(1, keepdim=True).clamp(min=1e-30)
    found = torch.zeros(channels, dtype=share.dtype)
    return found.scatter_reduce(0, index.flatten(), share.flatten(), "amax")


def _channels(layer: LayerModule, channels: int) -> Tensor:
    """Channels that each filter reads, `[O, C / g]`."""
    groups = getattr(layer, "groups", 1)
    read = torch.arange(channels).view(groups, -1)
    return read.repeat_interleave(len(layer.weight) // groups, 0)


def _columns(layer: LayerModule, channels: int) -> Tensor:
    """Weight `[O, C / g, K]`, with K weights for each channel."""
    weight: Tensor = layer.weight
    return weight.reshape(len(weight), channels, -1)


def _multiply(module: nn.Module, name: str, factors: Tensor) -> None:
    """Multiply a parameter by a factor for each filter, if the module has it."""
    parameter = getattr(module, name)
    if parameter is not None:
        _set(module, name, parameter * factors.view(-1, *[1] * (parameter.ndim - 1)))


def _set(module: nn.Module, name: str, numbers: Tensor) -> None:
    """Replace a parameter, which other modules may share."""
    shape = getattr(module, name).shape
    setattr(module, name, nn.Parameter(numbers.reshape(shape), requires_grad=False))
