from __future__ import annotations

import torch
from tests.quantization.networks import warm
from tests.quantization.test_calibration import layout_of
from torch import nn

from mulfree.nn import Adder2d
from mulfree.quantization.bias_correction import correct_batch_norms
from mulfree.quantization.calibration import find_ranges, make_qparams
from mulfree.quantization.fused_ops import FusedLayer
from mulfree.quantization.qparams import QuantParams


def test_norms_are_corrected_for_what_rounding_does() -> None:
    torch.manual_seed(0)
    layer, norm = Adder2d(4, 4, 3), nn.BatchNorm2d(4)
    conv = nn.Conv2d(2, 4, 1)
    first = nn.Sequential(conv, nn.ReLU())
    net = nn.Sequential(first, layer, norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    nn.init.uniform_(layer.weight, 0, 2)
    images = warm(net, (2, 12, 12))
    assert norm.running_mean is not None
    assert norm.running_var is not None
    # Statistics of other images, which are moved, not replaced.
    norm.running_mean += 5.0
    norm.running_var *= 3.0
    mean, variance = norm.running_mean.clone(), norm.running_var.clone()
    layout = layout_of(net, (2, 12, 12))
    qparams = make_qparams(layout, find_ranges(layout, net, images, "minmax"))
    source, operand = layout.fused.input, layout.fused.ops[0].output
    assert isinstance(layout.fused.ops[0], FusedLayer)
    kernel = conv.weight
    step = kernel.detach().abs().amax((1, 2, 3), keepdim=True) / 127
    corrected = correct_batch_norms(layout, net, images, qparams)
    # By hand: what the layer makes of its input, and of both rounded.
    with torch.no_grad():
        x = torch.cat([first(batch) for batch in images])
        kernel.copy_((kernel / step).round() * step)
        fine = torch.cat([first(rounded(batch, qparams[source])) for batch in images])
        shared = qparams[operand]
        exact = layer(x)
        layer.weight.copy_(
            rounded(layer.weight, shared)
            + layer.weight
            - layer.weight.clamp(shared.low, shared.high)
        )
        coarse = layer(rounded(fine, shared))
    moved = (coarse - exact).mean((0, 2, 3))
    new = corrected.get_submodule("2")
    assert isinstance(new, nn.BatchNorm2d)
    assert new.running_mean is not None
    assert new.running_var is not None
    torch.testing.assert_close(new.running_mean - mean, moved, atol=1e-4, rtol=1e-4)
    ratio = coarse.var((0, 2, 3)) / exact.var((0, 2, 3))
    torch.testing.assert_close(new.running_var / variance, ratio, atol=0.01, rtol=0.01)
    # The rounding does something to correct.
    assert moved.abs().max() > 0.1
    assert not new.training
    # The given network is not changed.
    assert torch.equal(norm.running_mean, mean)
    assert torch.equal(norm.running_var, variance)


def rounded(x: torch.Tensor, qparams: QuantParams) -> torch.Tensor:
    q = (x / qparams.scale).round() + qparams.zero_point
    return qparams.scale * (q.clamp(0, qparams.qmax) - qparams.zero_point)


def test_a_filter_without_variance_is_not_corrected() -> None:
    conv, norm = nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4)
    nn.init.zeros_(conv.weight)
    net = nn.Sequential(conv, norm, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images = warm(net, (2, 4, 4))
    layout = layout_of(net, (2, 4, 4))
    qparams = make_qparams(layout, find_ranges(layout, net, images, "minmax"))
    corrected = correct_batch_norms(layout, net, images, qparams)
    new = corrected.get_submodule("1")
    assert isinstance(new, nn.BatchNorm2d)
    assert new.running_var is not None
    assert new.running_var.tolist() == [0.0] * 4
