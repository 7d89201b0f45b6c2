"""Modules equivalent to functions and methods of tensors."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import fx, nn
from torch.nn import functional

_Make: TypeAlias = Callable[..., nn.Module | None]


def _padding(pad: Any, mode: str = "constant", value: float | None = None) -> nn.Module | None:
    if mode != "constant" or len(pad) not in (2, 4):
        return None
    return nn.ConstantPad2d((*pad, 0, 0)[:4], value or 0.0)


def _clamp(min: float | None = None, max: float | None = None) -> nn.Module | None:
    if min != 0:
        return None
    return nn.ReLU() if max is None else nn.Hardtanh(0.0, max)


def _dropout(p: float = 0.5, training: bool = True, inplace: bool = False) -> nn.Module | None:
    return None if training else nn.Identity()


def _reshape(*sizes: Any, **names: Any) -> nn.Module:
    # The trace holds the resulting shape.
    return nn.Flatten()


def _unchanged(memory_format: torch.memory_format | None = None) -> nn.Module:
    return nn.Identity()


_SPELLINGS: dict[Any, tuple[_Make, tuple[str, ...]]] = {
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
        (functional.max_pool2d, torch.max_pool2d),
        (
            nn.MaxPool2d,
            ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
        ),
    ),
    functional.avg_pool2d: (
        nn.AvgPool2d,
        (
            *("kernel_size", "stride", "padding", "ceil_mode"),
            *("count_include_pad", "divisor_override"),
        ),
    ),
    functional.adaptive_avg_pool2d: (nn.AdaptiveAvgPool2d, ("output_size",)),
    **dict.fromkeys(
        (functional.interpolate, functional.upsample),
        (
            nn.Upsample,
            ("size", "scale_factor", "mode", "align_corners", "recompute_scale_factor"),
        ),
    ),
    functional.pad: (_padding, ("pad", "mode", "value")),
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
_MEANS = (torch.mean, "mean")
# Arguments without effect on the result where they have these values.
_NEUTRAL = {"antialias": False}

NUMPY = {"axis": "dim", "keepdims": "keepdim"}
"""Torch's names of arguments by numpy's names."""

SUMS = {
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), 1.0),
    **dict.fromkeys((operator.sub, torch.sub, torch.subtract, "sub", "sub_"), -1.0),
}
"""Factor of the second operand, by operation."""
_PRODUCTS = (operator.mul, torch.mul, torch.multiply, "mul", "mul_")
_QUOTIENTS = (operator.truediv, torch.div, torch.divide, torch.true_divide, "div", "div_")
_NEGATIONS = (operator.neg, torch.neg, torch.negative, "neg", "neg_")


def source_of(node: fx.Node) -> object:
    """First operand of an operation, None if it has none."""
    return node.args[0] if node.args else node.kwargs.get("input")


def spelled(node: fx.Node) -> nn.Module | None:
    """Module equivalent to a function or method; None if there is none."""
    if node.op not in ("call_function", "call_method"):
        return None
    if node.target in _MEANS:
        return _mean(node)
    if node.target not in _SPELLINGS:
        return None
    make, names = _SPELLINGS[node.target]
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


def multiple(node: fx.Node) -> tuple[fx.Node, float] | None:
    """Operand and factor of a multiplication by a number; None for any other operation."""
    target: Any = node.target
    if node.op not in ("call_function", "call_method") or node.kwargs:
        return None
    match node.args:
        case (fx.Node() as operand,) if target in _NEGATIONS:
            return operand, -1.0
        case (fx.Node() as operand, int() | float() as factor) if target in _PRODUCTS:
            return operand, float(factor)
        case (int() | float() as factor, fx.Node() as operand) if target in _PRODUCTS:
            return operand, float(factor)
        case (fx.Node() as operand, int() | float() as divisor) if target in _QUOTIENTS and divisor:
            return operand, 1.0 / divisor
    return None


def _mean(node: fx.Node) -> nn.Module | None:
    """Module equivalent to a mean over rows and columns."""
    given: dict[str, Any] = dict(zip(("dim", "keepdim"), node.args[1:], strict=False))
    given |= {NUMPY.get(k, k): value for k, value in node.kwargs.items() if k != "input"}
    source, dims = source_of(node), given.pop("dim", ())
    given.pop("keepdim", None)
    if given or not isinstance(source, fx.Node) or not isinstance(dims, (tuple, list)):
        return None
    rank = len(source.meta["shape"]) + 1
    if rank != 4 or {dim % rank for dim in dims} != {2, 3}:
        return None
    return nn.AdaptiveAvgPool2d(1)
