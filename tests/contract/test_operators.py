from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.oracle import assert_within_bound
from torch import nn

from mulfree import cost, models, operators
from mulfree.errors import ConfigError
from mulfree.operators import get_operator, operator_of
from mulfree.operators.window import SAMPLES, ConvProblem

TOYS = str(Path(__file__).parent / "operators")
NAMES = (*operators.OPERATORS, "shift2d")


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder and a line: the toy operator `shift2d`."""
    monkeypatch.setattr(operators, "__path__", [*operators.__path__, TOYS])
    monkeypatch.setattr(operators, "OPERATORS", NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("problem", SAMPLES, ids=str)
def test_contract(name: str, problem: ConvProblem) -> None:
    """Function, reference, layer and counts agree."""
    operator = get_operator(name)
    assert operator.name == name
    x, w = torch.randn(problem.input_shape), torch.randn(problem.weight_shape)
    geometry = problem.sliding
    exact = operator.reference(x.double(), w.double(), None, *geometry)
    assert exact.shape == problem.output_shape
    taps = problem.weight_shape[1] * problem.kernel[0] * problem.kernel[1]
    naive = operator.reference(x, w, None, *geometry)
    assert_within_bound(operator.function(x, w, None, *geometry), naive, exact, taps)

    channels = (problem.in_channels, problem.out_channels)
    layer = operator.conv(*channels, problem.kernel, *geometry, bias=True)
    with torch.no_grad():
        for parameter, value in ((layer.weight, w), (layer.bias, torch.tensor(2.0))):
            assert isinstance(parameter, nn.Parameter)
            parameter.copy_(value)
    torch.testing.assert_close(layer(x), operator.function(x, w, None, *geometry) + 2)
    counts = operator.count(layer, problem.input_shape, problem.output_shape)
    assert (counts.total > 0) == (exact.numel() > 0)
    larger = replace(problem, batch=3 * problem.batch)
    assert operator.count(layer, larger.input_shape, larger.output_shape) == counts * 3


@pytest.mark.parametrize("name", NAMES)
def test_counts_of_the_example(name: str) -> None:
    """Counts that the operator states for one problem, worked out by hand."""
    operator = get_operator(name)
    problem, counts = operator.count_example
    layer = operator.conv(
        problem.in_channels, problem.out_channels, problem.kernel, *problem.sliding
    )
    assert counts.total > 0
    assert operator.count(layer, problem.input_shape, problem.output_shape) == counts


@pytest.mark.parametrize("name", NAMES)
def test_layers_belong_to_their_operator(name: str) -> None:
    operator = get_operator(name)
    assert operator_of(operator.conv(3, 4, 3)) is operator
    assert operator_of(operator.linear(3, 4)) is operator


def test_other_layers_belong_to_none() -> None:
    assert operator_of(nn.BatchNorm2d(3)) is None


def test_unknown_operator() -> None:
    with pytest.raises(
        ConfigError, match="`name` must be one of adder2d, conv2d, shift2d, got 'adder'"
    ):
        get_operator("adder")


def test_networks_and_tables_know_a_new_operator() -> None:
    network = models.create_model("resnet20", operator="shift2d", num_classes=4)
    assert network(torch.randn(2, 3, 16, 16)).shape == (2, 4)
    profile = cost.count(network, (3, 32, 32))
    # All but the first and the last layer: 40.81 M - 0.443 M pairs of input and weight.
    assert round(profile.total.cost.shift / 1e6, 2) == 40.37
    assert "| #shift |" in cost.to_markdown(profile)
