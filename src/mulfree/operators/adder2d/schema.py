"""What torch is told about the adder operator: schemas, shapes, gradients and implementations.

Three operators are registered, `mulfree::adder2d` and its two gradients, so that autograd,
`torch.compile`, `torch.export`, `vmap` and `opcheck` treat them as they treat torch's own.
Kernels are imported when they are first used.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from mulfree._triton import missing as triton_missing
from mulfree.errors import BackendUnavailableError, DTypeError, MulfreeError, choices_message
from mulfree.operators.adder2d.gradient import parse_gradient
from mulfree.operators.window import Sliding

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
    """The arguments that the three operators share, checked and in the form kernels take."""

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
    ) -> None:
        if input.dtype != weight.dtype or input.dtype not in DTYPES:
            raise DTypeError(
                "adder2d: `weight` must have the floating-point dtype of `input` "
                f"({', '.join(str(d).removeprefix('torch.') for d in DTYPES)}), "
                f"got {weight.dtype} with input {input.dtype}"
            )
        self.sliding = Sliding(
            (stride[0], stride[1]), (padding[0], padding[1]), (dilation[0], dilation[1]), groups
        )
        self.rule = parse_gradient("adder2d", gradient)
        self.norm = norm
        self.channels_last = (
            input.is_contiguous(memory_format=torch.channels_last) and not input.is_contiguous()
        )
        output_hw = self.sliding.output_hw(input.shape[2:], weight.shape[2:])
        self.output_shape = (input.shape[0], weight.shape[0], *output_hw)
        self.empty = 0 in (*input.shape, *weight.shape, *self.output_shape)
        self.backend = self._choose(input, backend)

    def _choose(self, input: Tensor, backend: str | None) -> str:
        if backend is not None and backend not in BACKENDS:
            raise BackendUnavailableError(choices_message("adder2d", "backend", backend, BACKENDS))
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
    problem = _Problem(input, weight, *args)
    return problem.laid_out(_gradient("input_grad", problem, grad, input, weight))


@torch.library.impl("mulfree::adder2d_weight_grad", "default")
def _adder2d_weight_grad(grad: Tensor, input: Tensor, weight: Tensor, *args: Any) -> Tensor:
    problem = _Problem(input, weight, *args)
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
    problem = _Problem(input, weight, *args)
    return problem.laid_out(torch.empty_like(input))


@_register_fake("mulfree::adder2d_weight_grad")
def _adder2d_weight_grad_fake(grad: Tensor, input: Tensor, weight: Tensor, *args: Any) -> Tensor:
    return torch.empty_like(weight, memory_format=torch.contiguous_format)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.arguments = inputs[2:]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    input, weight = ctx.saved_tensors
    ops, wanted = torch.ops.mulfree, ctx.needs_input_grad
    operands = (grad, input, weight, *ctx.arguments)
    return (
        ops.adder2d_input_grad(*operands) if wanted[0] else None,
        ops.adder2d_weight_grad(*operands) if wanted[1] else None,
        *(None for _ in ctx.arguments),
    )


def _no_double_backward(ctx: Any, grad: Tensor) -> None:
    raise MulfreeError(
        "adder2d: `create_graph` must be False, got a second derivative; "
        "the gradient rules are not derivatives of each other"
    )


torch.library.register_autograd("mulfree::adder2d", _backward, setup_context=_setup_context)
for _name in ("adder2d_input_grad", "adder2d_weight_grad"):
    torch.library.register_autograd(f"mulfree::{_name}", _no_double_backward)


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
