from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.runtime.graphs import random_graph, tiny

from mulfree import cost, models
from mulfree.cost import LayerProfile
from mulfree.quantization import quantize
from mulfree.runtime import artifact


def layers() -> list[LayerProfile]:
    return list(cost.count_graph(tiny()).layers)


def test_shapes_and_bytes_by_hand() -> None:
    seen = [
        (layer.name, layer.kind, layer.operator, layer.input_shape, layer.output_shape)
        for layer in layers()
    ]
    assert seen == [
        ("input", "Input", "input", (1, 1, 3, 3), (1, 1, 3, 3)),
        ("adder", "Adder2d", "adder2d", (1, 1, 3, 3), (1, 2, 2, 2)),
        ("mean", "Mean", "mean", (1, 2, 2, 2), (1, 2, 1, 1)),
        ("fc", "Linear", "linear", (1, 2, 1, 1), (1, 2, 1, 1)),
    ]
    # Two filters of four bytes, factors of 4 and offsets of 8 bytes; 2 x 2 bytes, two of 4 and 4.
    assert [layer.params for layer in layers()] == [256, 2 * (4 + 1 + 1), 0, 4 + 2 + 2]
    assert [layer.weight_bytes for layer in layers()] == [256, 2 * (4 + 4 + 8), 0, 4 + 8 + 8]
    # Logits are float32.
    assert [layer.activation_bytes for layer in layers()] == [9, 8, 2, 8]
    moved = [256 + 9 + 9, 32 + 9 + 8, 8 + 2, 20 + 2 + 8]
    assert [layer.traffic_bytes for layer in layers()] == moved


def test_energy_by_hand() -> None:
    picture, adder, mean, linear = (layer.energy for layer in layers())
    assert picture == 0
    # 32 differences of bytes; 32 + 8 sums and 4 factors of 32 bits.
    assert adder == pytest.approx(32 * 0.03 + 40 * 0.1 + 4 * 3.1)
    assert mean == pytest.approx(10 * 0.1)
    # 4 products of bytes and their sums; 2 factors and sums of float32.
    assert linear == pytest.approx(4 * 0.2 + 4 * 0.1 + 2 * 3.7 + 2 * 0.9)


def test_every_input_of_a_node_is_read() -> None:
    graphs = (random_graph(np.random.default_rng(seed)) for seed in range(50))
    graph = next(graph for graph in graphs if any(node.op == "add" for node in graph.nodes))
    values = graph.by_name
    for node, layer in zip(graph.nodes, cost.count_graph(graph).layers[1:], strict=True):
        read = sum(values[name].elements for name in node.inputs)
        assert layer.traffic_bytes == layer.weight_bytes + read + layer.activation_bytes


def test_totals_are_sums() -> None:
    total = cost.count_graph(tiny()).total
    assert (total.cost.mul, total.cost.add, total.cost.xnor) == (4 + 6, 72 + 10 + 6, 0)
    assert (total.params, total.weight_bytes, total.activation_bytes) == (276, 308, 27)
    assert total.energy == pytest.approx(17.36 + 1.0 + 10.4)


def quantised(operator: str, *, shift_only: bool) -> dict[str, LayerProfile]:
    torch.manual_seed(0)
    model = models.create_model("lenet5_bn", operator=operator, in_channels=1)
    graph = quantize(model, [torch.rand(2, 1, 28, 28)], power_of_two_scales=shift_only)
    return {layer.name: layer for layer in cost.count_graph(graph).layers}


@pytest.mark.parametrize(("operator", "energy"), [("adder2d", 0.13), ("conv2d", 0.3)])
def test_a_tap_takes_what_the_papers_say(operator: str, energy: float) -> None:
    layer = quantised(operator, shift_only=True)["conv2"]
    outputs = 16 * 10 * 10
    # Without multiplications there is one sum an output besides the 6 * 5 * 5 taps.
    assert layer.energy == pytest.approx(outputs * (150 * energy + 0.1))


def test_shifts_show_in_the_multiplications() -> None:
    with_factors, with_shifts = (
        {name: layer.cost.mul for name, layer in quantised("adder2d", shift_only=only).items()}
        for only in (False, True)
    )
    ends = {"conv1": 6 * 28 * 28 * 25, "fc": 84 * 10 + 10}
    assert {name: mul for name, mul in with_shifts.items() if mul} == ends
    assert {name: with_factors[name] - mul for name, mul in with_shifts.items()} == {
        **dict.fromkeys(with_shifts, 0),
        "conv1": 6 * 28 * 28,
        "conv2": 16 * 10 * 10,
        "conv3": 120,
        "conv4": 84,
    }


def test_bytes_are_those_of_the_file() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        graph = random_graph(rng)
        content = artifact.to_bytes(graph)
        header = int.from_bytes(content[:8], "little")
        profile = cost.count_graph(graph)
        assert profile.total.weight_bytes == len(content) - 8 - header
        assert [layer.cost.mul for layer in profile.layers[1:]] == [
            count.mul for count in graph.counts()
        ]
