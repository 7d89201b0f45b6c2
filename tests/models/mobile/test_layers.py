"""Layers of the mobile families."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from mulfree.models.mobile.layers import ConvNormAct, SamePad2d, SqueezeExcitation, StochasticDepth
from mulfree.models.mobile.options import MobileOptions


@pytest.mark.parametrize(
    ("size", "kernel", "frame"),
    [
        (224, 3, (0, 1)),
        (7, 3, (1, 1)),
        (224, 5, (1, 2)),
        (15, 5, (2, 2)),
        (1, 3, (1, 1)),
        (2, 5, (1, 2)),
    ],
)
def test_same_padding_of_stride_2(size: int, kernel: int, frame: tuple[int, int]) -> None:
    images = torch.rand(1, 2, size, size + 2) + 1
    padded = SamePad2d(kernel, 2)(images)
    rows = padded[0, 0, :, frame[0]].ne(0).nonzero().flatten()
    assert (int(rows[0]), padded.shape[2] - int(rows[-1]) - 1) == frame
    assert functional.max_pool2d(padded, kernel, 2).shape[2:] == (
        -(-size // 2),
        -(-(size + 2) // 2),
    )


def test_same_padding_adds_nothing_where_the_kernel_skips_pixels() -> None:
    images = torch.rand(1, 1, 6, 6)
    assert torch.equal(SamePad2d(1, 2)(images), images)


def test_gradients_reach_through_the_padding() -> None:
    images = torch.rand(1, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(SamePad2d(3, 2), (images,))


@pytest.mark.parametrize(("stride", "padded"), [(1, False), (2, True)])
def test_only_layers_with_a_stride_are_padded_apart(stride: int, padded: bool) -> None:
    options = MobileOptions(same_padding=True)
    layer = ConvNormAct(3, 8, options, nn.SiLU, kernel=3, stride=stride)
    assert hasattr(layer, "pad") is padded
    assert layer.conv.padding == ((0, 0) if padded else (1, 1))
    assert (layer.bn.eps, layer.bn.momentum) == (1e-5, 0.1)


def test_squeeze_and_excitation() -> None:
    layer = SqueezeExcitation(4, 2).double()
    x = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    squeezed = layer.reduce(x.mean((2, 3), keepdim=True))
    gate = torch.sigmoid(layer.expand(squeezed * torch.sigmoid(squeezed)))
    torch.testing.assert_close(layer(x), x * gate)


def test_stochastic_depth() -> None:
    layer = StochasticDepth(0.25)
    x = torch.ones(4000, 1, 2, 2)
    out = layer(x)
    kept = out[:, 0, 0, 0] != 0
    assert float(kept.float().mean()) == pytest.approx(0.75, abs=0.03)
    # A whole image, scaled to keep the mean.
    assert torch.equal(out[kept], torch.full_like(out[kept], 1 / 0.75))
    assert not out[~kept].any()
    assert torch.equal(layer.eval()(x), x)
    assert torch.equal(StochasticDepth(0.0)(x), x)
    assert "rate=0.25" in repr(layer)
    assert "kernel=3, stride=2" in repr(SamePad2d(3, 2))
