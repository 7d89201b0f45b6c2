"""Quantisation of a depth-dynamic network: one graph for each depth, with the same weights.

An adder layer has the weights of its input's scale. So the input of a layer has one scale at all
depths, from the range over all of them; so has the output where the blocks before are the same,
which makes the nodes of the common first blocks equal.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterable, Mapping
from typing import TypeAlias

from mulfree import runtime
from mulfree.errors import ConfigError
from mulfree.models.depth_dynamic import DepthDynamicNetwork
from mulfree.quantization.arguments import integer
from mulfree.quantization.calibration import Ranges
from mulfree.quantization.fused_graph import classifies
from mulfree.quantization.fused_ops import FusedLayer
from mulfree.quantization.images import Batches
from mulfree.quantization.layout import QuantLayout
from mulfree.quantization.preprocessing import Preprocessing
from mulfree.quantization.qparams import BITS
from mulfree.quantization.quantize import Prepared, prepare

_Key: TypeAlias = tuple[str, str]
"""A depth and the name of quantisation parameters at it."""


def quantize_depths(
    model: DepthDynamicNetwork,
    batches: Batches,
    bits: int = 8,
    *,
    observer: str = "auto",
    bias_correction: bool | None = None,
    power_of_two_scales: bool = False,
    preprocessing: Preprocessing | None = None,
    name: str | None = None,
) -> dict[str, runtime.Graph]:
    """Quantise all sub-nets of a network together, for `runtime.save` of one file.

    Args:
        model: The network.
        batches: As in `quantize`.
        bits: As in `quantize`.
        observer: As in `quantize`.
        bias_correction: As in `quantize`; decided for every depth by itself.
        power_of_two_scales: As in `quantize`.
        preprocessing: As in `quantize`.
        name: Name of the graphs, to which the name of the depth is added.

    Returns:
        The graphs by the names of the sub-nets, the full network last. Layers that sub-nets share
        have equal weights, which a file holds once.

    Raises:
        ConfigError: As `quantize`, or `model` is no depth-dynamic network.
        DTypeError: As `quantize`.
        ShapeError: As `quantize`.
    """
    if not isinstance(model, DepthDynamicNetwork):
        raise ConfigError(
            "quantize_depths: `model` must be a depth-dynamic network, got a "
            f"{type(model).__name__}"
        )
    bits = integer("bits", bits, BITS, f"one of {', '.join(map(str, BITS))}")
    images = batches if hasattr(batches, "shape") else list(batches)
    prepared: dict[str, Prepared] = {}
    for depth in model.depths:
        network = copy.deepcopy(model)
        network.set_depth(depth)
        prepared[depth] = prepare(
            network,
            images,
            bits,
            observer=observer,
            power_of_two_scales=power_of_two_scales,
            equalize=False,
            preprocessing=preprocessing,
            name=f"{name or type(model).__name__} {depth}",
        )
    ranges = {depth: one.find_ranges() for depth, one in prepared.items()}
    layouts = {depth: one.layout for depth, one in prepared.items()}
    common = _united(ranges, _shared(model, layouts))
    return {
        depth: one.lower(common[depth], bias_correction, automatic=True)
        for depth, one in prepared.items()
    }


def _shared(model: DepthDynamicNetwork, layouts: Mapping[str, QuantLayout]) -> list[list[_Key]]:
    """Groups of quantisation parameters that are to be equal."""
    groups: dict[Hashable, list[_Key]] = {}
    for depth, layout in layouts.items():
        groups.setdefault("pixels", []).append((depth, layout.fused.input))
        steps = {f"network.{step.block}.": step.key for step in model.route(depth)}
        before: tuple[Hashable, ...] = ()
        for op in layout.fused.ops:
            if not isinstance(op, FusedLayer):
                continue
            groups.setdefault(op.module, []).append((depth, layout.operand(op)))
            block = next((prefix for prefix in steps if op.module.startswith(prefix)), None)
            if block is not None and steps[block] not in before:
                before = (*before, steps[block])
            if not classifies(op):
                key = (op.module, before)
                groups.setdefault(key, []).append((depth, layout.roots[op.output]))
    return list(groups.values())


def _united(
    ranges: Mapping[str, Ranges], groups: Iterable[list[_Key]]
) -> dict[str, dict[str, tuple[float, float]]]:
    """Ranges of all depths, each the hull of the ranges that it is to be equal to."""
    member: dict[_Key, set[_Key]] = {}
    for keys in groups:
        # A copy without a range has the range of its value, and nothing to unite.
        known = [key for key in keys if key[1] in ranges[key[0]]]
        together = set(known).union(*(member.get(key, set()) for key in known))
        member |= dict.fromkeys(together, together)
    united = {depth: dict(own) for depth, own in ranges.items()}
    for depth, name in member:
        all_of = [ranges[other][own] for other, own in member[depth, name]]
        united[depth][name] = min(low for low, _ in all_of), max(high for _, high in all_of)
    return united
