"""Native CPU kernels on tensors of float32 or float64."""

from __future__ import annotations

import torch
from torch import Tensor

from mulfree._native import core
from mulfree.errors import BackendUnavailableError, ShapeError
from mulfree.operators.adder2d.gradient import GradientRule
from mulfree.operators.window import Sliding


def supports(rule: GradientRule, norm: float) -> bool:
    """True if the kernels compute this gradient rule and norm."""
    return rule.name in ("adder", "sign") and norm == 1.0


def forward(input: Tensor, weight: Tensor, sliding: Sliding) -> Tensor:
    """`-sum |x - w|` over the taps, `[N, C_out, H_out, W_out]`."""
    output_hw = sliding.output_hw(input.shape[2:], weight.shape[2:])
    shape = (len(input), len(weight), *output_hw)
    return _run("adder2d_forward", (input, weight), shape, sliding)


def input_grad(
    grad: Tensor, input: Tensor, weight: Tensor, sliding: Sliding, rule: GradientRule
) -> Tensor:
    """GradientRule of the input by `rule`, of `input`'s shape."""
    tensors = (grad, input, weight)
    return _run("adder2d_input_grad", tensors, input.shape, sliding, rule.name)


def weight_grad(
    grad: Tensor, input: Tensor, weight: Tensor, sliding: Sliding, rule: GradientRule
) -> Tensor:
    """GradientRule of the weight by `rule`, of `weight`'s shape."""
    tensors = (grad, input, weight)
    return _run("adder2d_weight_grad", tensors, weight.shape, sliding, rule.name)


def _run(
    kernel: str,
    tensors: tuple[Tensor, ...],
    shape: tuple[int, ...],
    sliding: Sliding,
    *rule: str,
) -> Tensor:
    """Output of `kernel` for these tensors."""
    # Not arrays of NumPy, which would keep FSDP from freeing the memory of gathered weights.
    arrays = [tensor.detach().contiguous() for tensor in tensors]
    output = torch.empty(shape, dtype=tensors[0].dtype)
    try:
        run = getattr(core(), kernel)
        run(*arrays, output.numpy(), *sliding, *rule, torch.get_num_threads(), "")
    except MemoryError:
        raise ShapeError(
            "adder2d: `dilation` and `padding` must leave windows that fit into memory, got "
            f"padding {sliding.padding} and dilation {sliding.dilation} for weight "
            f"{list(tensors[-1].shape)}"
        ) from None
    except ValueError as error:
        # Shapes and rules were checked before: what is left is a MULFREE_ISA that is not here.
        raise BackendUnavailableError(str(error)) from error
    return output
