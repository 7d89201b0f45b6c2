from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mulfree.nn import Adder2d
from mulfree.quantization.fake_quantize import FakeQuantize
from mulfree.quantization.fused_ops import FusedLayer
from mulfree.quantization.fusion import fuse
from mulfree.quantization.layout import QuantLayout
from mulfree.quantization.qparams import TensorQuantParams


def hooks(
    bits: int = 4, *, middle: nn.Module | None = None, power_of_two_scales: bool = False
) -> tuple[FakeQuantize, FusedLayer, FusedLayer]:
    middle = Adder2d(2, 2, 1) if middle is None else middle
    net = nn.Sequential(
        nn.Conv2d(1, 2, 1), nn.ReLU(), middle, nn.ReLU(), nn.Flatten(), nn.Linear(2, 2)
    )
    layout = QuantLayout(fused=fuse(net, (1, 1, 1)), bits=bits)

    def lattice(name: str, x: Tensor) -> TensorQuantParams:
        return torch.tensor(0.5), torch.tensor(0, dtype=torch.int32)

    first, second, _ = layout.fused.ops
    assert isinstance(first, FusedLayer)
    assert isinstance(second, FusedLayer)
    return FakeQuantize(layout, lattice, power_of_two_scales=power_of_two_scales), first, second


def test_values_are_rounded_and_gradients_pass_within_the_grid() -> None:
    rounding, first, _ = hooks()
    x = torch.tensor([-1.0, 0.2, 0.3, 7.4, 7.6], requires_grad=True)
    y = rounding.value(first.output, x)
    assert y.tolist() == [0.0, 0.0, 0.5, 7.5, 7.5]
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("layer", "weights", "fake"),
    [
        # A weight in the range, 0 to 7.5, is rounded; one outside keeps its distance to the range.
        (Adder2d(2, 2, 1), [-3.1, 0.2, 7.3, 9.9], [-3.1, 0.0, 7.5, 9.9]),
        # A scale for every filter.
        (nn.Conv2d(2, 2, 1), [7.0, 2.6, -0.7, 0.0], [7.0, 3.0, -0.7, 0.0]),
        (nn.Conv2d(2, 2, 1), [0.0] * 4, [0.0] * 4),
    ],
)
def test_weights(layer: Adder2d | nn.Conv2d, weights: list[float], fake: list[float]) -> None:
    rounding, first, second = hooks(middle=layer)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weights).view(2, 2, 1, 1))
    rounding.value(first.output, torch.zeros(1))
    weight = rounding.weight(second, layer)
    torch.testing.assert_close(weight.flatten(), torch.tensor(fake))
    weight.sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.flatten().tolist() == [1.0] * 4


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_factors_behind_adder_layers_as_powers_of_two(training: bool, affine: bool) -> None:
    rounding, convolution, adder = hooks(power_of_two_scales=True)
    norm = nn.BatchNorm2d(4, affine=affine).train(training).double()
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean += 0.3
    norm.running_var *= torch.tensor([1.0, 2.0, 3.0, 0.3])
    weight, bias = torch.ones(4), torch.zeros(4)
    if affine:
        weight, bias = torch.tensor([1.0, -0.7, 5.0, 0.0]), torch.tensor([0.0, 1.0, 2.0, 3.0])
        with torch.no_grad():
            norm.weight.copy_(weight)
            norm.bias.copy_(bias)
    x = 3 * torch.randn(8, 4, 3, 3, dtype=torch.float64)
    y = rounding.batch_norm(adder, norm, x, norm(x))
    mean = x.mean((0, 2, 3)) if training else norm.running_mean
    # The running variance gives the powers, whatever the variance of a batch.
    factor = weight / (norm.running_var + norm.eps).sqrt()
    power = factor.sign() * torch.where(factor == 0, 1, factor.abs()).log2().round().exp2()
    shape = (1, 4, 1, 1)
    expected = (x - mean.view(shape)) * power.view(shape) + bias.view(shape)
    torch.testing.assert_close(y, expected)
    # After a convolution the scales of the weights make the factors powers of two.
    assert rounding.batch_norm(convolution, norm, x, y) is y
    assert hooks()[0].batch_norm(adder, norm, x, y) is y
