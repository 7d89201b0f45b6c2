from __future__ import annotations

import copy
import pickle

import pytest
import torch
from tests.oracle import assert_within_bound
from torch import nn

from mulfree import operators
from mulfree.errors import ConfigError
from mulfree.nn import Adder2d, AdderLinear
from mulfree.operators import get_operator, operator_of, uses_adaptive_local_lr
from mulfree.operators.window import SAMPLES, ConvProblem


@pytest.mark.parametrize("name", operators.OPERATORS)
@pytest.mark.parametrize("window", SAMPLES, ids=str)
def test_contract(name: str, window: ConvProblem) -> None:
    """Every operator, whoever adds it: function, reference, layer and cost agree."""
    operator = get_operator(name)
    assert operator.name == name
    x, w = torch.randn(window.input_shape), torch.randn(window.weight_shape)
    geometry = window.sliding
    exact = operator.reference(x.double(), w.double(), None, *geometry)
    assert exact.shape == window.output_shape
    taps = window.weight_shape[1] * window.kernel[0] * window.kernel[1]
    naive = operator.reference(x, w, None, *geometry)
    assert_within_bound(operator.function(x, w, None, *geometry), naive, exact, taps)

    layer = operator.conv(
        window.in_channels, window.out_channels, window.kernel, *geometry, bias=True
    )
    with torch.no_grad():
        for parameter, value in ((layer.weight, w), (layer.bias, torch.tensor(2.0))):
            assert isinstance(parameter, nn.Parameter)
            parameter.copy_(value)
    torch.testing.assert_close(layer(x), operator.function(x, w, None, *geometry) + 2)
    cost = operator.count(layer, window.input_shape, window.output_shape)
    assert cost.mul + cost.add == 2 * exact.numel() * taps


@pytest.mark.parametrize("name", operators.OPERATORS)
def test_layers_belong_to_their_operator(name: str) -> None:
    operator = get_operator(name)
    assert operator_of(operator.conv(3, 4, 3)) is operator
    assert operator_of(operator.linear(3, 4)) is operator


def test_other_layers_belong_to_none() -> None:
    assert operator_of(nn.BatchNorm2d(3)) is None


def test_unknown_operator() -> None:
    with pytest.raises(ConfigError, match="`name` must be one of adder2d, conv2d, got 'adder'"):
        get_operator("adder")


@pytest.mark.parametrize("layer", [Adder2d(2, 3, 3, bias=True), AdderLinear(2, 3, bias=True)])
def test_mark_of_adder_weights_survives(layer: nn.Module) -> None:
    copies = {
        "itself": layer,
        "deepcopy": copy.deepcopy(layer),
        "pickle": pickle.loads(pickle.dumps(layer)),
        "inside": copy.deepcopy(nn.Sequential(layer))[0],
        "double": copy.deepcopy(layer).double(),
        "to_empty": copy.deepcopy(layer).to("meta").to_empty(device="cpu"),
    }
    for how, module in copies.items():
        module.load_state_dict(layer.state_dict(), assign=how == "inside")
        marks = {name: uses_adaptive_local_lr(p) for name, p in module.named_parameters()}
        assert marks == {"weight": True, "bias": False}, how
