"""The adder operator written out from the papers' formulas, and the rule that bounds its error."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from mulfree.operators.window import ConvProblem


def windows(x: Tensor, window: ConvProblem) -> Tensor:
    """Every tap of every window of the zero-padded image, `[N, C, K_h, K_w, H_out, W_out]`."""
    (kh, kw), (sh, sw), (dh, dw) = window.kernel, window.stride, window.dilation
    (ph, pw), (height, width) = window.padding, window.output_shape[2:]
    padded = pad(x, (pw, pw, ph, ph))
    rows = torch.tensor([[i * sh + u * dh for i in range(height)] for u in range(kh)])
    columns = torch.tensor([[j * sw + v * dw for j in range(width)] for v in range(kw)])
    return padded[:, :, rows[:, None, :, None], columns[None, :, None, :]]


def differences(x: Tensor, w: Tensor, window: ConvProblem) -> Tensor:
    """`x - w` of every tap, `[N, G, C_out / G, C_in / G, K_h, K_w, H_out, W_out]`."""
    groups = window.groups
    taps = windows(x, window)
    taps = taps.reshape(len(x), groups, 1, w.shape[1], *taps.shape[2:])
    return taps - w.reshape(1, groups, -1, *w.shape[1:], 1, 1)


def forward(x: Tensor, w: Tensor, window: ConvProblem, norm: float = 1.0) -> Tensor:
    """Eq. 2, or its l_p form."""
    y = -differences(x, w, window).abs().pow(norm).sum((3, 4, 5))
    return y.reshape(window.output_shape)


def gradients(
    x: Tensor, w: Tensor, g: Tensor, window: ConvProblem, gradient: str
) -> tuple[Tensor, Tensor]:
    """Gradients of input and weight: Eq. 5-7 ("adder"), Eq. 4 ("sign") or of the l_p norm."""
    d = differences(x, w, window)
    if gradient == "adder":
        to_weight, to_input = d, (-d).clamp(-1, 1)
    elif gradient == "sign":
        to_weight, to_input = _sign(d), -_sign(d)
    else:
        p = float(gradient[1:])
        to_weight = p * _sign(d) * d.abs().pow(p - 1)
        to_input = -to_weight
    outer = g.reshape(len(x), window.groups, d.shape[2], 1, 1, 1, *g.shape[2:])
    weight = (to_weight * outer).sum((0, 6, 7)).reshape(w.shape)
    taps = (to_input * outer).sum(2).reshape(len(x), x.shape[1], *d.shape[4:])
    # What a tap of a window passes back to its pixel is the transpose of reading it.
    probe = torch.zeros_like(x, requires_grad=True)
    windows(probe, window).backward(taps)
    assert probe.grad is not None
    return probe.grad, weight


def _sign(d: Tensor) -> Tensor:
    """-1, 0 or 1, and NaN of a NaN, for which torch has 0."""
    return torch.where(d.isnan(), d, d.sign())


def assert_within_bound(result: Tensor, naive: Tensor, exact: Tensor, terms: int) -> None:
    """A kernel may err twice as much as the naive sum, and by sqrt(terms) roundings of max |y|."""
    assert result.shape == exact.shape
    if exact.numel() == 0:
        return
    worst = exact.abs().max().item()
    allowance = math.sqrt(terms) * torch.finfo(result.dtype).eps * worst
    error = (result.double() - exact).abs().max().item()
    bound = 2 * (naive.double() - exact).abs().max().item() + allowance
    assert error <= bound, f"error {error:.3g} above {bound:.3g} (max |y| {worst:.3g})"
