from __future__ import annotations

from typing import Any

import pytest

from mulfree.bench.passes import taps
from mulfree.bench.suites import BenchOptions, depthwise, get_suite
from mulfree.bench.suites import operator as operator_suite
from mulfree.errors import ConfigError


def test_layers_are_the_sixteen_depthwise_ones_of_efficientnet_b0() -> None:
    layers = depthwise.depthwise_layers(BenchOptions())
    assert len(layers) == len({layer.problem for layer in layers}) == 12
    assert sum(layer.occurrences for layer in layers) == 16
    for layer in layers:
        problem = layer.problem
        assert problem.batch == 8
        assert problem.groups == problem.in_channels == problem.out_channels
        assert problem.output_shape[2] * problem.stride[0] == problem.size[0]
    total = sum(layer.occurrences * taps(layer.problem) for layer in layers)
    assert total == 8 * 34_532_064  # of the 389 M multiply-adds of an image


def test_quick_and_batches() -> None:
    layers = depthwise.depthwise_layers(BenchOptions(quick=True, batches=(2,)))
    assert [layer.problem.size for layer in layers] == [(7, 7), (7, 7)]
    assert {layer.problem.batch for layer in layers} == {2}


def test_every_layer_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def spy(operator: Any, layer: Any, *, rounds: int, device: Any) -> list[dict[str, Any]]:
        seen.append((operator.name, layer, rounds, device.type))
        return [{"model": layer.model, "input": "relu", "pass": "forward", "ratio": 2.0}]

    monkeypatch.setattr(operator_suite, "bench_layer", spy)
    parts: list[str] = []
    options = BenchOptions(rounds=4)
    result = get_suite("depthwise").run(options, parts.append)
    assert [entry[1] for entry in seen] == depthwise.depthwise_layers(options)
    assert {(name, rounds, device) for name, _, rounds, device in seen} == {("adder2d", 4, "cpu")}
    assert len(parts) == get_suite("depthwise").parts(options) == 12
    (row,) = result["summary"]
    assert (row["model"], row["geometries"], row["ratio"]) == (
        "efficientnet_b0",
        12,
        pytest.approx(2.0),
    )


@pytest.mark.parametrize(
    "options", [BenchOptions(models=("resnet20",)), BenchOptions(input_size=(3, 32, 32))]
)
def test_other_networks_are_refused(options: BenchOptions) -> None:
    with pytest.raises(ConfigError, match=r"`--(models|input-size)` must be left out for depthwi"):
        depthwise.SUITE.check(options)
