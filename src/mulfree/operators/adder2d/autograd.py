"""Autograd of the adder operator: kernels of the dispatcher for its "Autograd" keys.

`torch.library.register_autograd` would do for backward mode alone: it drops the tangents of forward
mode without a word, a derivative of 0, and refuses the transforms of `torch.func`. The dispatcher
calls these kernels once for each level of a transform, so each level is one node of a graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad

from mulfree.errors import MulfreeError


class AdderFunction(torch.autograd.Function):
    """A call of the operator, with gradients by the named rule."""

    @staticmethod
    def forward(ctx: Any, below: Callable[..., Tensor], *args: Any) -> Tensor:
        """Call the operator below this level."""
        ctx.save_for_backward(*args[:2])
        ctx.arguments = args[2:]
        return below(*args)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Call the operators of the required gradients."""
        input, weight = ctx.saved_tensors
        ops, (_, *wanted) = torch.ops.mulfree, ctx.needs_input_grad
        operands = (grad, input, weight, *ctx.arguments)
        return (
            None,
            ops.adder2d_input_grad(*operands) if wanted[0] else None,
            ops.adder2d_weight_grad(*operands) if wanted[1] else None,
            *(None for _ in ctx.arguments),
        )


class GradientFunction(torch.autograd.Function):
    """A call of one of the gradients, which cannot be differentiated again."""

    @staticmethod
    def forward(ctx: Any, below: Callable[..., Tensor], *args: Any) -> Tensor:
        """Call the gradient below this level."""
        return below(*args)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> None:
        """Refuse a second derivative."""
        raise MulfreeError(
            "adder2d: `create_graph` must be False, got a second derivative; "
            "the gradient rules are not derivatives of each other"
        )


def kernel(operator: Any, node: type[torch.autograd.Function]) -> Callable[..., Tensor]:
    """The kernel that records calls of `operator` as `node`; takes the dispatcher's key set first.

    Raises:
        MulfreeError: By the kernel: a tensor carries a tangent.
    """

    def record(keyset: Any, *args: Any) -> Tensor:
        def below(*args: Any) -> Tensor:
            with torch._C._AutoDispatchBelowAutograd():
                result = operator.redispatch(keyset & torch._C._after_autograd_keyset, *args)
            assert isinstance(result, Tensor)
            return result

        def below_node(*args: Any) -> Tensor:
            # A node turns differentiation off, which the levels below record for themselves.
            with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(forward):
                return below(*args)

        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        forward = torch._C._is_fwd_grad_enabled()
        if forward:
            _refuse_tangents(tensors)
        if not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)):
            return below(*args)
        # Not `node.apply`, which would begin with the first level of a transform again.
        with enable_single_level_autograd_function():
            result = super(torch.autograd.Function, node).apply(below_node, *args)  # type: ignore[misc]
        assert isinstance(result, Tensor)
        return result

    return record


def _refuse_tangents(tensors: list[Tensor]) -> None:
    if any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors):
        raise MulfreeError(
            "adder2d: derivatives must be taken in backward mode (grad, vjp, jacrev), got a tensor "
            "with a tangent (jvp, jacfwd, hessian); the gradient rules are not derivatives"
        )
