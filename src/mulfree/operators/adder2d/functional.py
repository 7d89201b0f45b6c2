"""The adder operator as functions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mulfree.errors import DTypeError, ShapeError
from mulfree.operators.adder2d import schema as schema
from mulfree.operators.adder2d.gradient import check_norm, parse_gradient
from mulfree.operators.operand import check_tensor
from mulfree.operators.window import Padding, PairLike, Sliding, integer, pair, resolve_padding


def adder2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: PairLike = 1,
    padding: Padding = 0,
    dilation: PairLike = 1,
    groups: int = 1,
    *,
    gradient: str = "adder",
    norm: float = 1.0,
    backend: str | None = None,
) -> Tensor:
    r"""Minus the l1 distance between every window of the input and every filter.

    .. math::
        y_{n,t,i,j} = b_t - \sum_{c,u,v} | x_{n,c,i s + u d - p, j s + v d - p} - w_{t,c,u,v} |

    Zero padding takes part as value 0. The gradient is the named rule, not the derivative:
    see `mulfree.operators.adder2d.gradient`.

    Args:
        input: `(N, C_in, H, W)` or `(C_in, H, W)`.
        weight: `(C_out, C_in / groups, K_h, K_w)`, of the input's dtype.
        bias: `(C_out,)` or none.
        stride: Step of the window, one number or `(vertical, horizontal)`.
        padding: Rows and columns of zeros on each side, or "same" or "valid".
        dilation: Distance between the taps of a filter.
        groups: Number of groups that channels are divided into.
        gradient: "adder" (Eq. 5-7), "sign" (the true derivative) or "l<p>" with 1 <= p <= 2.
        norm: Exponent p of the forward `-sum |x - w|^p`, 1 <= p <= 2; 1 is the adder network,
            larger values are for annealing (arXiv 2105.14202).
        backend: "native" or "reference" to force an implementation; by default the device decides.

    Returns:
        `(N, C_out, H_out, W_out)`, channels_last where the input is.

    Raises:
        ShapeError: A shape or a size of the window is not possible.
        DTypeError: A dtype is not floating point, or input and weight differ.
        ConfigError: `gradient`, `norm` or a padding name is not valid.
        BackendUnavailableError: The backend cannot compute this.

    References:
        AdderNet, arXiv 1912.13200, Eq. 2.
    """
    _check_operands("adder2d", input, weight, bias, ranks=(3, 4), weight_rank=4)
    _check_options("adder2d", gradient, norm, backend)
    input, weight = _autocast(input, weight)
    stride, dilation = (
        pair("adder2d", "stride", stride, 1),
        pair("adder2d", "dilation", dilation, 1),
    )
    groups = integer("adder2d", "groups", groups, 1)
    kernel = (weight.shape[2], weight.shape[3])
    padding, uneven = resolve_padding("adder2d", padding, kernel, stride, dilation)
    batched = input.dim() == 4
    images = input if batched else input.unsqueeze(0)
    if uneven is not None:
        images = torch.nn.functional.pad(images, uneven)
    sliding = Sliding(stride, padding, dilation, groups)
    output = torch.ops.mulfree.adder2d(images, weight, *sliding, gradient, norm, backend)
    if bias is not None:
        output = output + bias.to(output.dtype).reshape(-1, 1, 1)
    assert isinstance(output, Tensor)
    return output if batched else output.squeeze(0)


def adder_linear(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    gradient: str = "adder",
    norm: float = 1.0,
    backend: str | None = None,
) -> Tensor:
    r"""Minus the l1 distance between every feature vector and every filter.

    .. math:: y_{t} = b_t - \sum_{k} | x_{k} - w_{t,k} |

    Args:
        input: `(..., in_features)`.
        weight: `(out_features, in_features)`.
        bias: `(out_features,)` or none.
        gradient: As in `adder2d`.
        norm: As in `adder2d`.
        backend: As in `adder2d`.

    Returns:
        `(..., out_features)`.

    Raises:
        ShapeError: The shapes do not fit.
        DTypeError: A dtype is not floating point, or input and weight differ.
        ConfigError: `gradient` or `norm` is not valid.

    References:
        AdderNet, arXiv 1912.13200, Eq. 1 with a window of one pixel.
    """
    _check_operands("adder_linear", input, weight, bias, ranks=None, weight_rank=2)
    _check_options("adder_linear", gradient, norm, backend)
    if input.shape[-1] != weight.shape[1]:
        raise ShapeError(
            f"adder_linear: `input` must have {weight.shape[1]} features in its last dimension, "
            f"got shape {list(input.shape)}"
        )
    input, weight = _autocast(input, weight)
    leading = input.shape[:-1]
    vectors = input.reshape(math.prod(leading), input.shape[-1], 1, 1)
    filters = weight[:, :, None, None]
    output = torch.ops.mulfree.adder2d(vectors, filters, *Sliding(), gradient, norm, backend)
    output = output.reshape(*leading, weight.shape[0])
    assert isinstance(output, Tensor)
    return output if bias is None else output + bias.to(output.dtype)


def _check_operands(
    function: str,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    ranks: tuple[int, ...] | None,
    weight_rank: int,
) -> None:
    others = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    for name, value in {"input": input, **others}.items():
        check_tensor(function, name, value)
    if input.dim() == 0 if ranks is None else input.dim() not in ranks:
        wanted = (
            "at least one dimension" if ranks is None else "shape (N, C_in, H, W) or (C_in, H, W)"
        )
        raise ShapeError(f"{function}: `input` must have {wanted}, got {list(input.shape)}")
    if weight.dim() != weight_rank:
        linear, window = "(out_features, in_features)", "(C_out, C_in / groups, K_h, K_w)"
        raise ShapeError(
            f"{function}: `weight` must have shape {linear if weight_rank == 2 else window}, "
            f"got {list(weight.shape)}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ShapeError(
            f"{function}: `bias` must have shape [{weight.shape[0]}], got {list(bias.shape)}"
        )
    if input.dtype not in schema.DTYPES:
        raise DTypeError(
            f"{function}: `input` must be float64, float32, float16 or bfloat16, got {input.dtype}"
        )
    autocast = _autocast_enabled(input)
    for name, tensor in others.items():
        if tensor.dtype != input.dtype and not (autocast and tensor.dtype in schema.DTYPES):
            raise DTypeError(
                f"{function}: `{name}` must have the dtype of `input` ({input.dtype}), "
                f"got {tensor.dtype}"
            )
        if tensor.device != input.device:
            raise ShapeError(
                f"{function}: `{name}` must be on the device of `input` ({input.device}), "
                f"got {tensor.device}"
            )


def _check_options(function: str, gradient: str, norm: float, backend: str | None) -> None:
    check_norm(function, norm)
    parse_gradient(function, gradient)
    schema.check_backend(function, backend)


def _autocast_enabled(tensor: Tensor) -> bool:
    device = tensor.device.type  # "meta", for one, has no autocast
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def _autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Under autocast in the lower precision, as torch does for a convolution; float64 stays."""
    if not _autocast_enabled(tensors[0]):
        return tensors
    dtype = torch.get_autocast_dtype(tensors[0].device.type)
    return tuple(t if t.dtype == torch.float64 else t.to(dtype) for t in tensors)
