from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from torch import nn

from mulfree.nn import Adder2d
from mulfree.operators import integer_form, operator_of
from mulfree.quantization.folding import BatchNormParams, Folded, fold
from mulfree.quantization.fused_ops import LayerModule
from mulfree.quantization.qparams import QuantParams

QPARAMS = [
    QuantParams(scale=0.25, zero_point=0, bits=8),
    QuantParams(scale=0.5, zero_point=5, bits=4),
]


def folded(
    module: LayerModule,
    qparams: QuantParams,
    batch_norm: BatchNormParams | None = None,
    *,
    bits: int = 8,
    output_scale: float | None = 1.0,
    power_of_two_scales: bool = False,
) -> Folded:
    operator = operator_of(module)
    assert operator is not None
    form = integer_form(operator.name)
    assert form is not None
    return fold(
        form,
        module,
        batch_norm,
        qparams,
        map_shape=(1, 1, 1),
        bits=bits,
        output_scale=output_scale,
        power_of_two_scales=power_of_two_scales,
    )


def pixels(qparams: QuantParams) -> NDArray[np.int64]:
    return np.arange(qparams.qmax + 1)


@pytest.mark.parametrize("qparams", QPARAMS, ids=["behind a ReLU", "signed"])
def test_clipping_weights_costs_a_constant_only(qparams: QuantParams) -> None:
    """`-|x - w|` is exact for every x in the range and every w in it or outside, however far."""
    inside = qparams.scale * (pixels(qparams) - qparams.zero_point)
    outside = np.array([-1e3, -3.21, qparams.low - 1e-3, qparams.high + 1e-3, 1e3])
    weights = np.concatenate([inside, outside])
    layer = Adder2d(1, len(weights), 1).double()
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weights).view(-1, 1, 1, 1))
    result = folded(layer, qparams)
    q = pixels(qparams)[:, None]
    acc = -np.abs(q - result.weight.reshape(1, -1).astype(np.int64))
    real = qparams.scale * (q - qparams.zero_point)
    assert_allclose(
        result.factor * acc + result.offset, -np.abs(real - weights), rtol=1e-12, atol=1e-12
    )
    assert result.largest == 255


NORM = BatchNormParams(
    factor=np.array([2.0, -0.3, 0.0]),
    mean=np.array([-1.0, 0.5, 3.0]),
    bias=np.array([0.1, 0.2, 0.3]),
)


@pytest.mark.parametrize("layer", [Adder2d(2, 3, 1, bias=True), nn.Conv2d(2, 3, 1)])
def test_normalisation_in_steps_of_the_result(layer: LayerModule) -> None:
    layer.reset_parameters()
    plain = folded(layer, QPARAMS[0])
    result = folded(layer, QPARAMS[0], NORM, output_scale=0.125)
    acc = np.array([-300, 20, 7])
    y = plain.factor * acc + plain.offset
    expected = (NORM.factor * (y - NORM.mean) + NORM.bias) / 0.125
    assert_allclose(result.factor * acc + result.offset, expected, rtol=1e-12)


@pytest.mark.parametrize("layer", [Adder2d(2, 3, 1, bias=True), nn.Conv2d(2, 3, 1)])
@pytest.mark.parametrize("batch_norm", [NORM, None])
def test_shifts(layer: LayerModule, batch_norm: BatchNormParams | None) -> None:
    layer.reset_parameters()
    result = folded(layer, QPARAMS[0], batch_norm, output_scale=0.125, power_of_two_scales=True)
    exact = folded(layer, QPARAMS[0], batch_norm, output_scale=0.125)
    nonzero = result.factor != 0
    exponents = np.log2(np.abs(result.factor[nonzero]))
    assert_array_equal(exponents, np.rint(exponents))
    ratio = result.factor[nonzero] / exact.factor[nonzero]
    assert ((ratio >= 0.5**0.5) & (ratio <= 2)).all()
    assert_array_equal(np.sign(result.factor), np.sign(exact.factor))
    if isinstance(layer, nn.Conv2d):
        # The weights' scales took up the difference: factor times weight stayed.
        both = [f.factor[:, None, None, None] * f.weight for f in (result, exact)]
        step = np.abs(result.factor)[:, None, None, None]
        assert (np.abs(both[0] - both[1]) <= step).all()
    elif batch_norm is not None:
        # What the normalisation makes of its mean stayed.
        plain = folded(layer, QPARAMS[0])
        acc = (batch_norm.mean - plain.offset) / plain.factor
        assert_allclose(result.factor * acc + result.offset, batch_norm.bias / 0.125, rtol=1e-9)


def test_factors_of_logits_are_left_as_they_are() -> None:
    layer = nn.Conv2d(2, 3, 1)
    result = folded(layer, QPARAMS[0], NORM, output_scale=None, power_of_two_scales=True)
    assert_array_equal(result.factor, folded(layer, QPARAMS[0], NORM, output_scale=None).factor)
    assert_array_equal(result.factor, folded(layer, QPARAMS[0], NORM, output_scale=1.0).factor)
