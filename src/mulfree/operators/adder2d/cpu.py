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
    """Gradient of the input by `rule`, of `input`'s shape."""
    tensors = (grad, input, weight)
    return _run("adder2d_input_grad", tensors, input.shape, sliding, rule.name)


def weight_grad(
    grad: Tensor, input: Tensor, weight: Tensor, sliding: Sliding, rule: GradientRule
) -> Tensor:
    """Gradient of the weight by `rule`, of `weight`'s shape."""
    tensors = (grad, input, weight)
    return _run("adder2d_weight_grad", tensors, weight.shape, sliding, rule.name)


def _run(
    kernel: str,
    tensors: tuple[Tensor, ...],
    shape: tuple[int, ...],
    sliding: Sliding,
    *rule: str,
) -> Tensor:
    """Output of `kernel` for these tensors, in channels_last where there is such a kernel."""
    if sliding.groups > 1 and _is_channels_last(tensors[-2]):
        output = _call(kernel, tensors, shape, sliding, rule, torch.channels_last)
        if output is not None:
            return output
    output = _call(kernel, tensors, shape, sliding, rule, torch.contiguous_format)
    assert output is not None
    return output


def _is_channels_last(images: Tensor) -> bool:
    return images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()


def _call(
    kernel: str,
    tensors: tuple[Tensor, ...],
    shape: tuple[int, ...],
    sliding: Sliding,
    rule: tuple[str, ...],
    layout: torch.memory_format,
) -> Tensor | None:
    """Output of `kernel` for images in one memory format; None if it has none for these."""
    *images, weight = (tensor.detach() for tensor in tensors)
    last = layout == torch.channels_last
    # Not arrays of NumPy, which would keep FSDP from freeing the memory of gathered weights.
    arrays = [_array(image.contiguous(memory_format=layout), last) for image in images]
    of_images = kernel != "adder2d_weight_grad"
    output = torch.empty(
        shape,
        dtype=weight.dtype,
        memory_format=layout if of_images else torch.contiguous_format,
    )
    target = _array(output, last and of_images).numpy()
    try:
        run = getattr(core(), kernel)
        threads = torch.get_num_threads()
        done = run(*arrays, weight.contiguous(), target, *sliding, *rule, threads, "", last)
    except MemoryError:
        raise ShapeError(
            "adder2d: `dilation` and `padding` must leave windows that fit into memory, got "
            f"padding {sliding.padding} and dilation {sliding.dilation} for weight "
            f"{list(tensors[-1].shape)}"
        ) from None
    except ValueError as error:
        # Shapes and rules were checked before: what is left is a MULFREE_ISA that is not here.
        raise BackendUnavailableError(str(error)) from error
    return output if done else None


def _array(images: Tensor, channels_last: bool) -> Tensor:
    """Images as a C-contiguous array."""
    return images.permute(0, 2, 3, 1) if channels_last else images
