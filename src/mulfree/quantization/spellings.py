"""Modules equivalent to functions and methods of tensors.

The facet `quantize` of a node has the spellings of its operation.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from mulfree.nodes.fusing import Spellings


def _clamp(min: float | None = None, max: float | None = None) -> nn.Module | None:
    if min == 0 and max is None:
        return nn.ReLU()
    low, high = -math.inf if min is None else float(min), math.inf if max is None else float(max)
    return nn.Hardtanh(low, high) if low < high else None


def _dropout(p: float = 0.5, training: bool = True, inplace: bool = False) -> nn.Module | None:
    return None if training else nn.Identity()


def _reshape(*sizes: Any, **names: Any) -> nn.Module:
    # The trace holds the resulting shape.
    return nn.Flatten()


def _unchanged(memory_format: torch.memory_format | None = None) -> nn.Module:
    return nn.Identity()


SPELLINGS: Spellings = {
    **dict.fromkeys(
        (functional.relu, functional.relu_, torch.relu, torch.relu_, "relu", "relu_"),
        (nn.ReLU, ("inplace",)),
    ),
    functional.relu6: (nn.ReLU6, ("inplace",)),
    **dict.fromkeys(
        (functional.hardtanh, functional.hardtanh_),
        (nn.Hardtanh, ("min_val", "max_val", "inplace")),
    ),
    **dict.fromkeys(
        (torch.clamp, torch.clamp_, torch.clip, torch.clip_, "clamp", "clamp_", "clip", "clip_"),
        (_clamp, ("min", "max")),
    ),
    **dict.fromkeys(
        (torch.clamp_min, torch.clamp_min_, "clamp_min", "clamp_min_"), (_clamp, ("min",))
    ),
    **dict.fromkeys(
        (torch.clamp_max, torch.clamp_max_, "clamp_max", "clamp_max_"), (_clamp, ("max",))
    ),
    **dict.fromkeys(
        (
            *(functional.dropout, functional.dropout1d, functional.dropout2d),
            *(functional.alpha_dropout, functional.feature_alpha_dropout),
        ),
        (_dropout, ("p", "training", "inplace")),
    ),
    **dict.fromkeys(
        (
            *(torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze),
            *("flatten", "reshape", "view", "squeeze", "unsqueeze"),
        ),
        (_reshape, ()),
    ),
    **dict.fromkeys((torch.clone, "clone", "contiguous", "detach"), (_unchanged, ())),
}
# Arguments without effect on the result where they have these values.
_NEUTRAL = {"antialias": False}


def spelled(node: fx.Node, spellings: Spellings) -> nn.Module | None:
    """Module equivalent to a function or method; None if there is none."""
    if node.op not in ("call_function", "call_method") or node.target not in spellings:
        return None
    make, names = spellings[node.target]
    if make is _reshape:
        return make()
    given = dict(zip(names, node.args[1:], strict=False))
    given |= {name: value for name, value in node.kwargs.items() if name != "input"}
    given = {k: v for k, v in given.items() if k not in _NEUTRAL or v != _NEUTRAL[k]}
    try:
        return make(**given)
    except (TypeError, ValueError):
        # An argument that the module lacks, such as `out`, or of another type, such as a tensor.
        return None
