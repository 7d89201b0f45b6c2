"""Registration of the adder operator with torch: schemas, shapes, gradients, implementations.

Three operators are registered, `mulfree::adder2d` and its two gradients, so that autograd,
`torch.compile`, `torch.export`, `vmap` and `opcheck` treat them as they treat torch's own.
Kernels are imported when they are first used.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import torch
from torch import Tensor

from mulfree._triton import missing as triton_missing
from mulfree.errors import BackendUnavailableError, DTypeError, ShapeError, choices_message
from mulfree.operators.adder2d import autograd
from mulfree.operators.adder2d.gradient import GradientRule, check_norm, parse_gradient
from mulfree.operators.operand import check_tensor
from mulfree.operators.window import Pair, Sliding, check_values, integer, pair

BACKENDS = ("native", "triton", "reference")
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

_WINDOW = "SymInt[2] stride, SymInt[2] padding, SymInt[2] dilation, SymInt groups"
_RULE = "str gradient, float norm, str? backend"
for _name, _operands in (
    ("adder2d", "Tensor input, Tensor weight"),
    ("adder2d_input_grad", "Tensor grad, Tensor input, Tensor weight"),
    ("adder2d_weight_grad", "Tensor grad, Tensor input, Tensor weight"),
):
    torch.library.define(f"mulfree::{_name}", f"({_operands}, {_WINDOW}, {_RULE}) -> Tensor")


# Typed here, because torch does not.
_register_fake: Callable[[str], Callable[[Callable[..., Tensor]], Callable[..., Tensor]]] = (
    torch.library.register_fake
)


class _Problem:
    """Arguments of the three operators, checked and in the form of the kernels."""

    def __init__(
        self,
        input: Tensor,
        weight: Tensor,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        gradient: str,
        norm: float,
        backend: str | None,
        *,
        grad: Tensor | None = None,
    ) -> None:
        for name, tensor in (("input", input), ("weight", weight), ("grad", grad)):
            if tensor is not None:
                _check_image(name, tensor, input)
        for name, tensor in (("weight", weight), ("grad", grad)):
            if tensor is not None and (tensor.dtype != input.dtype or tensor.dtype not in DTYPES):
                raise DTypeError(
                    f"adder2d: `{name}` must have the floating-point dtype of `input` "
                    f"({', '.join(str(d).removeprefix('torch.') for d in DTYPES)}), "
                    f"got {tensor.dtype} with input {input.dtype}"
                )
        options = (*stride, *padding, *dilation, groups)
        # Sizes that are being traced cannot be remembered.
        check = _options if all(type(size) is int for size in options) else _options.__wrapped__
        self.sliding, self.rule = check(
            tuple(stride), tuple(padding), tuple(dilation), groups, gradient, norm
        )
        self.norm = norm
        self.channels_last = (
            input.is_contiguous(memory_format=torch.channels_last) and not input.is_contiguous()
        )
        output_hw = _check_window(input, weight, self.sliding)
        self.output_shape = (input.shape[0], weight.shape[0], *output_hw)
        check_values("adder2d", "output", self.output_shape)
        if grad is not None and tuple(grad.shape) != self.output_shape:
            raise ShapeError(
                f"adder2d: `grad` must have the shape of the output {list(self.output_shape)}, "
                f"got {list(grad.shape)}"
            )
        self.empty = 0 in (*input.shape, *weight.shape, *self.output_shape)
        self.backend = self._choose(input, backend)

    def _choose(self, input: Tensor, backend: str | None) -> str:
        check_backend("adder2d", backend)
        if backend is None:
            return self._best(input)
        reason = None
        if backend == "native":
            reason = self._not_native(input)
        elif backend == "triton":
            reason = _not_triton(input)
        if reason is not None:
            raise BackendUnavailableError(
                f"adder2d: `backend` must be one that can run here, got {backend!r}: {reason}"
            )
        return backend

    def _best(self, input: Tensor) -> str:
        if input.device.type == "cpu":
            return "reference" if self._not_native(input) else "native"
        if input.device.type == "cuda":
            reason = _not_triton(input)
            if reason is None:
                return "triton"
            if input.dtype != torch.float64:
                # Once for every place that calls: Python remembers.
                warnings.warn(
                    f"adder2d: runs in the slow reference implementation, because {reason}",
                    RuntimeWarning,
                    stacklevel=2,
                )
        return "reference"

    def _not_native(self, input: Tensor) -> str | None:
        """Why the CPU kernels cannot compute this; None if they can."""
        from mulfree.operators.adder2d import cpu

        if input.device.type == "cpu" and cpu.supports(self.rule, self.norm):
            return None
        return (
            f"it runs on CPUs, with the gradient adder or sign and norm 1, not with device "
            f"{input.device.type}, gradient {self.rule.name} and norm {self.norm}"
        )

    def laid_out(self, result: Tensor) -> Tensor:
        """`result` in the memory format of the input."""
        if self.channels_last:
            return result.contiguous(memory_format=torch.channels_last)
        return result.contiguous()


@lru_cache(maxsize=1024)
def _options(
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    gradient: str,
    norm: float,
) -> tuple[Sliding, GradientRule]:
    """Arguments that are no tensors, checked; a network calls with the same few again and again."""
    sliding = Sliding(
        pair("adder2d", "stride", list(stride), 1),
        pair("adder2d", "padding", list(padding), 0),
        pair("adder2d", "dilation", list(dilation), 1),
        integer("adder2d", "groups", groups, 1),
    )
    rule = parse_gradient("adder2d", gradient)
    check_norm("adder2d", norm)
    return sliding, rule


def check_backend(function: str, name: str | None) -> None:
    """Refuse the name of no implementation.

    Raises:
        BackendUnavailableError: It is neither a known name nor none.
    """
    if name is not None and not (isinstance(name, str) and name in BACKENDS):
        raise BackendUnavailableError(choices_message(function, "backend", name, BACKENDS))


def _check_image(name: str, tensor: Tensor, input: Tensor) -> None:
    check_tensor("adder2d", name, tensor)
    if tensor.dim() != 4:
        raise ShapeError(
            f"adder2d: `{name}` must have four dimensions, got shape {list(tensor.shape)}"
        )
    if tensor.device != input.device:
        raise ShapeError(
            f"adder2d: `{name}` must be on the device of `input` ({input.device}), "
            f"got {tensor.device}"
        )


def _check_window(images: Tensor, weight: Tensor, sliding: Sliding) -> Pair:
    """Refuse shapes that do not fit each other; return the size of the output."""
    groups = sliding.groups
    if weight.shape[0] % groups != 0:
        raise ShapeError(
            "adder2d: `groups` must be a positive divisor of C_out "
            f"(={weight.shape[0]}), got {groups}"
        )
    if images.shape[1] != weight.shape[1] * groups:
        raise ShapeError(
            f"adder2d: `input` must have C_in = {weight.shape[1]} x {groups} groups "
            f"= {weight.shape[1] * groups} channels, got shape {list(images.shape)}"
        )
    if weight.shape[2] < 1 or weight.shape[3] < 1:
        raise ShapeError(
            f"adder2d: `weight` must have a window of at least 1x1, got {list(weight.shape)}"
        )
    output_hw = sliding.output_hw(images.shape[2:], weight.shape[2:])
    if min(output_hw) < 1:
        raise ShapeError(
            "adder2d: `input` must be at least as large as the window, "
            f"got {list(images.shape)} for weight {list(weight.shape)}, "
            f"padding {sliding.padding}, dilation {sliding.dilation}"
        )
    return output_hw


def _not_triton(input: Tensor) -> str | None:
    """Why the GPU kernels cannot compute with a tensor; None if they can."""
    if input.dtype == torch.float64:
        return "the GPU kernels take float32, float16 and bfloat16, not float64"
    return triton_missing(input.device)


def _precise(*tensors: Tensor) -> list[Tensor]:
    """Half precision in float32, rounded once at the end: sums are never accumulated in less."""
    dtype = torch.float64 if tensors[0].dtype == torch.float64 else torch.float32
    return [tensor.to(dtype) for tensor in tensors]


@torch.library.impl("mulfree::adder2d", "default")
def _adder2d(input: Tensor, weight: Tensor, *args: Any) -> Tensor:
    problem = _Problem(input, weight, *args)
    if problem.empty:
        return problem.laid_out(input.new_zeros(problem.output_shape))
    if problem.backend == "triton":
        from mulfree.operators.adder2d import triton

        return problem.laid_out(triton.forward(input, weight, problem.sliding, problem.norm))
    x, w = _precise(input, weight)
    if problem.backend == "native":
        from mulfree.operators.adder2d import cpu

        result = cpu.forward(x, w, problem.sliding)
    else:
        from mulfree.operators.adder2d import reference

        result = reference.forward(x, w, problem.sliding, problem.norm)
    return problem.laid_out(result.to(input.dtype))


@torch.library.impl("mulfree::adder2d_input_grad", "default")
def _adder2d_input_grad(grad: Tensor, input: Tensor, weight: Tensor, *args: Any) -> Tensor:
    problem = _Problem(input, weight, *args, grad=grad)
    return problem.laid_out(_gradient("input_grad", problem, grad, input, weight))


@torch.library.impl("mulfree::adder2d_weight_grad", "default")
def _adder2d_weight_grad(grad: Tensor, input: Tensor, weight: Tensor, *args: Any) -> Tensor:
    problem = _Problem(input, weight, *args, grad=grad)
    return _gradient("weight_grad", problem, grad, input, weight).contiguous()


def _gradient(which: str, problem: _Problem, grad: Tensor, input: Tensor, weight: Tensor) -> Tensor:
    of = input if which == "input_grad" else weight
    if problem.empty:
        return torch.zeros_like(of, memory_format=torch.contiguous_format)
    backend: Any
    tensors = [grad, input, weight]
    if problem.backend == "triton":
        from mulfree.operators.adder2d import triton as backend
    elif problem.backend == "native":
        from mulfree.operators.adder2d import cpu as backend
    else:
        from mulfree.operators.adder2d import reference as backend
    if problem.backend != "triton":
        tensors = _precise(*tensors)
    result: Tensor = getattr(backend, which)(*tensors, problem.sliding, problem.rule)
    return result.to(of.dtype)


@_register_fake("mulfree::adder2d")
def _adder2d_fake(input: Tensor, weight: Tensor, *args: Any) -> Tensor:
    problem = _Problem(input, weight, *args)
    layout = torch.channels_last if problem.channels_last else torch.contiguous_format
    return input.new_empty(problem.output_shape).contiguous(memory_format=layout)


@_register_fake("mulfree::adder2d_input_grad")
def _adder2d_input_grad_fake(grad: Tensor, input: Tensor, weight: Tensor, *args: Any) -> Tensor:
    problem = _Problem(input, weight, *args, grad=grad)
    return problem.laid_out(torch.empty_like(input))


@_register_fake("mulfree::adder2d_weight_grad")
def _adder2d_weight_grad_fake(grad: Tensor, input: Tensor, weight: Tensor, *args: Any) -> Tensor:
    _Problem(input, weight, *args, grad=grad)
    return torch.empty_like(weight, memory_format=torch.contiguous_format)


# Kept alive: what a library registers goes with it.
_library = torch.library.Library("mulfree", "FRAGMENT")
for _name, _node in (
    ("adder2d", autograd.AdderFunction),
    ("adder2d_input_grad", autograd.GradientFunction),
    ("adder2d_weight_grad", autograd.GradientFunction),
):
    _kernel = autograd.kernel(getattr(torch.ops.mulfree, _name).default, _node)
    _library.impl(_name, _kernel, "Autograd", with_keyset=True)


# vmap: a mapped dimension is more images where the filters are shared, more groups where not.
_Mapped: TypeAlias = tuple[Tensor, int]


def _as_groups(tensor: Tensor, mapped: int | None, axis: int, size: int) -> Tensor:
    """The mapped dimension folded into dimension `axis`, the channels or the filters."""
    if mapped is None:
        spread = tensor.unsqueeze(axis)
        tensor = spread.expand(*spread.shape[:axis], size, *spread.shape[axis + 1 :])
    else:
        tensor = tensor.movedim(mapped, axis)
    return tensor.flatten(axis, axis + 1)


def _more_groups(args: tuple[Any, ...], size: int) -> tuple[Any, ...]:
    stride, padding, dilation, groups, *rest = args
    return (stride, padding, dilation, groups * size, *rest)


def _adder2d_vmap(info: Any, in_dims: Any, input: Tensor, weight: Tensor, *args: Any) -> _Mapped:
    size, op = info.batch_size, torch.ops.mulfree.adder2d
    if in_dims[1] is None:
        images = input.movedim(in_dims[0], 0)
        output = op(images.flatten(0, 1), weight, *args)
        return output.unflatten(0, images.shape[:2]), 0
    images = _as_groups(input, in_dims[0], 1, size)
    filters = _as_groups(weight, in_dims[1], 0, size)
    return op(images, filters, *_more_groups(args, size)).unflatten(1, (size, -1)), 1


def _gradient_vmap(name: str, axis: int) -> Callable[..., _Mapped]:
    def rule(
        info: Any, in_dims: Any, grad: Tensor, input: Tensor, weight: Tensor, *args: Any
    ) -> _Mapped:
        size = info.batch_size
        result = getattr(torch.ops.mulfree, name)(
            _as_groups(grad, in_dims[0], 1, size),
            _as_groups(input, in_dims[1], 1, size),
            _as_groups(weight, in_dims[2], 0, size),
            *_more_groups(args, size),
        )
        return result.unflatten(axis, (size, -1)), axis

    return rule


torch.library.register_vmap("mulfree::adder2d", _adder2d_vmap)
for _name, _axis in (("adder2d_input_grad", 1), ("adder2d_weight_grad", 0)):
    torch.library.register_vmap(f"mulfree::{_name}", _gradient_vmap(_name, _axis))
