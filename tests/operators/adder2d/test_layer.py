from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mulfree.errors import ConfigError, DTypeError, ShapeError
from mulfree.functional import adder2d
from mulfree.nn import Adder2d, AdderLinear
from mulfree.operators import uses_adaptive_local_lr
from mulfree.operators.adder2d.gradient import parse_gradient


def test_gradient_rule_and_norm_reach_the_function() -> None:
    x = torch.randn(2, 3, 6, 6)
    for gradient in ("adder", "sign", "l1.5"):
        layer = Adder2d(3, 4, 3, gradient=gradient, norm=1.5)
        w = layer.weight.detach().clone().requires_grad_()
        layer(x).sum().backward()
        adder2d(x, w, gradient=gradient, norm=1.5).sum().backward()
        assert layer.weight.grad is not None
        assert w.grad is not None
        assert torch.equal(layer.weight.grad, w.grad)


def test_linear() -> None:
    layer = AdderLinear(7, 3, bias=True)
    assert layer.bias is not None
    x = torch.randn(5, 7)
    expected = layer.bias - (x[:, None] - layer.weight).abs().sum(-1)
    torch.testing.assert_close(layer(x), expected)


def test_initialisation() -> None:
    layer = Adder2d(64, 64, 3, bias=True)
    assert layer.bias is not None
    assert abs(layer.weight.mean().item()) < 0.02
    assert abs(layer.weight.std().item() - 1) < 0.02
    assert layer.bias.abs().max() <= (64 * 9) ** -0.5


def test_state_dict_has_the_names_of_a_convolution() -> None:
    assert list(Adder2d(2, 3, 3, bias=True).state_dict()) == ["weight", "bias"]
    assert list(AdderLinear(2, 3).state_dict()) == ["weight"]


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (
            Adder2d(3, 4, 3, padding=1),
            "Adder2d(3, 4, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)",
        ),
        (
            Adder2d(4, 4, 3, padding="same", groups=2, dilation=2, bias=True, gradient="l2"),
            "Adder2d(4, 4, kernel_size=(3, 3), stride=(1, 1), padding=same, dilation=(2, 2), "
            "groups=2, gradient='l2')",
        ),
        (AdderLinear(3, 4, norm=1.5), "AdderLinear(3, 4, bias=False, norm=1.5)"),
    ],
)
def test_representation(layer: nn.Module, text: str) -> None:
    assert repr(layer) == text


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"in_channels": 0}, ShapeError, r"`in_channels` must be an integer .* >= 1, got 0"),
        ({"out_channels": 2**63}, ShapeError, r"`out_channels` must be .* got 9223372036854775808"),
        ({"groups": 0}, ShapeError, r"`groups` must be an integer .* >= 1, got 0"),
        ({"padding": None}, ShapeError, r"`padding` must be .* got None"),
        ({"padding": "sme"}, ConfigError, r"`padding` must be one of .* did you mean 'same'"),
        ({"padding": "same", "stride": 2}, ConfigError, r"`stride` must be 1 with padding='same'"),
        ({"dilation": (1, 2, 3)}, ShapeError, r"`dilation` must be .* got \(1, 2, 3\)"),
        (
            {"in_channels": 2**20, "out_channels": 2**20},
            ShapeError,
            r"`weight` must have at most 2\*\*40 values, got shape \[1048576, 1048576, 3, 3\]",
        ),
        ({"dtype": torch.int32}, DTypeError, r"`dtype` must be float64, .* got torch.int32"),
        ({"dtype": "float32"}, DTypeError, r"`dtype` must be float64, .* got 'float32'"),
        ({"gradient": None}, ConfigError, r"`gradient` must be .* got None"),
        ({"norm": "2"}, ConfigError, r"`norm` must be between 1 and 2, got '2'"),
        ({"norm": True}, ConfigError, r"`norm` must be between 1 and 2, got True"),
        ({"groups": 3}, ShapeError, r"`groups` must divide in_channels \(=2\) .* got 3"),
        ({"kernel_size": 0}, ShapeError, r"`kernel_size` must be .* got 0"),
        ({"stride": -1}, ShapeError, r"`stride` must be .* got -1"),
    ],
)
def test_refusals(options: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {"in_channels": 2, "out_channels": 4, "kernel_size": 3} | options
    with pytest.raises(error, match=f"^Adder2d: {message}"):
        Adder2d(**arguments)


@pytest.mark.parametrize("name", ["in_features", "out_features"])
@pytest.mark.parametrize("value", [0, -1, 2.0, 2**63, None, (1, 1)])
def test_refusals_of_linear(name: str, value: Any) -> None:
    arguments: dict[str, Any] = {"in_features": 2, "out_features": 4} | {name: value}
    with pytest.raises(ShapeError, match=f"^AdderLinear: `{name}` must be an integer .* got"):
        AdderLinear(**arguments)


def test_integers_of_numpy_are_integers() -> None:
    layer = Adder2d(np.int64(2), np.int32(4), np.int64(3), stride=(np.int64(2), 1))  # type: ignore[arg-type]
    assert repr(layer) == "Adder2d(2, 4, kernel_size=(3, 3), stride=(2, 1), bias=False)"


def test_gradient_names() -> None:
    assert parse_gradient("f", "l1.25").p == 1.25
    assert parse_gradient("f", "sign").name == "sign"
    for name in ("l0.5", "l2.5", "lp", "", "Adder", "l\u0661"):
        with pytest.raises(ConfigError, match=r"^f: `gradient` must be adder, sign or l<p>"):
            parse_gradient("f", name)


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
