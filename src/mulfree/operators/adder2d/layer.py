"""The adder operator as layers."""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor, nn

from mulfree.errors import DTypeError, ShapeError, quoted
from mulfree.operators.adder2d import schema
from mulfree.operators.adder2d.functional import adder2d, adder_linear
from mulfree.operators.adder2d.gradient import check_norm, parse_gradient
from mulfree.operators.operator import mark_adaptive_local_lr
from mulfree.operators.window import (
    Padding,
    PairLike,
    check_values,
    integer,
    pair,
    resolve_padding,
)


class _Adder(nn.Module):
    """Base of both layers: parameters, their initialisation, the gradient rule and the norm."""

    bias: nn.Parameter | None

    def __init__(
        self,
        weight_shape: tuple[int, ...],
        bias: bool,
        gradient: str,
        norm: float,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        function = type(self).__name__
        check_values(function, "weight", weight_shape)
        check_norm(function, norm)
        parse_gradient(function, gradient)
        if dtype is not None and dtype not in schema.DTYPES:
            raise DTypeError(
                f"{function}: `dtype` must be float64, float32, float16 or bfloat16, "
                f"got {quoted(dtype)}"
            )
        self.gradient = gradient
        self.norm = norm
        self.weight = nn.Parameter(torch.empty(weight_shape, device=device, dtype=dtype))
        if bias:
            self.bias = nn.Parameter(torch.empty(weight_shape[0], device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weights from N(0, 1), as in the authors' code; biases as in `torch.nn.Conv2d`."""
        nn.init.normal_(self.weight)
        if self.bias is not None:
            bound = 1 / math.sqrt(math.prod(self.weight.shape[1:]))
            nn.init.uniform_(self.bias, -bound, bound)

    # The mark is an attribute of the parameter. Where another parameter takes its place, as with
    # `load_state_dict(assign=True)` or `fully_shard`, or a copy, as in `to_empty`, it is set again.

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "weight" and isinstance(value, nn.Parameter):
            mark_adaptive_local_lr(value)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        mark_adaptive_local_lr(self.weight)

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        mark_adaptive_local_lr(self.weight)
        return self

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        # Beside its version: a convolution has weights of the same name and shape.
        metadata = getattr(destination, "_metadata", {})
        metadata.setdefault(prefix.removesuffix("."), {})["operator"] = "adder2d"

    def _rule(self) -> str:
        text = "" if self.bias is not None else ", bias=False"
        text += f", gradient={self.gradient!r}" if self.gradient != "adder" else ""
        return text + (f", norm={self.norm}" if self.norm != 1.0 else "")


class Adder2d(_Adder):
    r"""Adder layer: minus the l1 distance between every window and every filter.

    .. math::
        y_{n,t,i,j} = b_t - \sum_{c,u,v} | x_{n,c,i s + u d - p, j s + v d - p} - w_{t,c,u,v} |

    A drop-in for `torch.nn.Conv2d`. Outputs are large and never positive: let a batch
    normalisation follow. Train its weight with `mulfree.training.AdaptiveLocalLR`.

    Shapes: `(N, C_in, H, W)` to `(N, C_out, H_out, W_out)`; the weight is
    `(C_out, C_in / groups, K_h, K_w)`.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: ConvProblem, one number or `(vertical, horizontal)`.
        stride: Step of the window.
        padding: Rows and columns of zeros on each side, or "same" or "valid".
        dilation: Distance between the taps of a filter.
        groups: Number of groups that channels are divided into.
        bias: Whether a learned number is added to each output channel.
        gradient: Gradient rule, see `mulfree.functional.adder2d`.
        norm: Exponent of the forward, see `mulfree.functional.adder2d`.
        device: Where parameters are made.
        dtype: Precision of the parameters.

    Raises:
        ShapeError: A size is not a positive integer, or groups do not divide the channels.
        DTypeError: `dtype` is none that the operator computes in.
        ConfigError: `gradient`, `norm` or a padding name is not valid.

    References:
        AdderNet, arXiv 1912.13200, Eq. 2.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: PairLike,
        stride: PairLike = 1,
        padding: Padding = 0,
        dilation: PairLike = 1,
        groups: int = 1,
        bias: bool = False,
        *,
        gradient: str = "adder",
        norm: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        kernel = pair("Adder2d", "kernel_size", kernel_size, 1)
        in_channels = integer("Adder2d", "in_channels", in_channels, 1)
        out_channels = integer("Adder2d", "out_channels", out_channels, 1)
        groups = integer("Adder2d", "groups", groups, 1)
        stride = pair("Adder2d", "stride", stride, 1)
        dilation = pair("Adder2d", "dilation", dilation, 1)
        symmetric, _ = resolve_padding("Adder2d", padding, kernel, stride, dilation)
        if in_channels % groups or out_channels % groups:
            raise ShapeError(
                f"Adder2d: `groups` must divide in_channels (={in_channels}) and "
                f"out_channels (={out_channels}), got {groups}"
            )
        shape = (out_channels, in_channels // groups, *kernel)
        super().__init__(shape, bias, gradient, norm, device, dtype)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel
        self.stride = stride
        self.padding = padding if isinstance(padding, str) else symmetric
        self.dilation = dilation
        self.groups = groups

    def forward(self, input: Tensor) -> Tensor:
        """`(N, C_in, H, W)` to `(N, C_out, H_out, W_out)`."""
        return adder2d(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            gradient=self.gradient,
            norm=self.norm,
        )

    def extra_repr(self) -> str:
        """The arguments that differ from the defaults."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        text += f", stride={self.stride}"
        text += f", padding={self.padding}" if self.padding != (0, 0) else ""
        text += f", dilation={self.dilation}" if self.dilation != (1, 1) else ""
        text += f", groups={self.groups}" if self.groups != 1 else ""
        return text + self._rule()


class AdderLinear(_Adder):
    r"""Fully connected adder layer: minus the l1 distance to every filter.

    .. math:: y_{t} = b_t - \sum_{k} | x_{k} - w_{t,k} |

    Shapes: `(..., in_features)` to `(..., out_features)`; the weight is
    `(out_features, in_features)`.

    Args:
        in_features: Length of the input vectors.
        out_features: Number of filters.
        bias: Whether a learned number is added to each output.
        gradient: Gradient rule, see `mulfree.functional.adder2d`.
        norm: Exponent of the forward, see `mulfree.functional.adder2d`.
        device: Where parameters are made.
        dtype: Precision of the parameters.

    Raises:
        ShapeError: A size is not a positive integer.
        DTypeError: `dtype` is none that the operator computes in.
        ConfigError: `gradient` or `norm` is not valid.

    References:
        AdderNet, arXiv 1912.13200, Eq. 1 with a window of one pixel.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        *,
        gradient: str = "adder",
        norm: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        in_features = integer("AdderLinear", "in_features", in_features, 1)
        out_features = integer("AdderLinear", "out_features", out_features, 1)
        super().__init__((out_features, in_features), bias, gradient, norm, device, dtype)
        self.in_features = in_features
        self.out_features = out_features

    def forward(self, input: Tensor) -> Tensor:
        """`(..., in_features)` to `(..., out_features)`."""
        return adder_linear(input, self.weight, self.bias, gradient=self.gradient, norm=self.norm)

    def extra_repr(self) -> str:
        """The arguments that differ from the defaults."""
        return f"{self.in_features}, {self.out_features}" + self._rule()
