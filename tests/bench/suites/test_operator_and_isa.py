from __future__ import annotations

import math
import os
from dataclasses import replace
from functools import partial

import pytest
from torch import Tensor

from mulfree import functional
from mulfree.bench.correctness import BenchmarkError
from mulfree.bench.layers import BenchLayer
from mulfree.bench.suites.isa import bench_isas
from mulfree.bench.suites.operator import bench_layer, summarise
from mulfree.operators import Operator, get_operator
from mulfree.operators.window import ConvProblem

LAYER = BenchLayer(model="toy", problem=ConvProblem(batch=1, size=(4, 4)), occurrences=3)
TAPS = 4 * 16 * 27


@pytest.fixture
def adder() -> Operator:
    reference = partial(functional.adder2d, backend="reference")
    return replace(get_operator("adder2d"), function=reference)


def test_every_input_and_pass_is_timed_against_the_convolution(adder: Operator) -> None:
    entries = bench_layer(adder, LAYER, rounds=2)
    assert [(entry["input"], entry["pass"]) for entry in entries] == [
        ("relu", "forward"),
        ("relu", "forward_backward"),
        ("signed", "forward"),
        ("signed", "forward_backward"),
    ]
    for entry in entries:
        assert entry["geometry"] == str(LAYER.problem)
        assert entry["occurrences"] == 3
        assert entry["taps"] == TAPS
        own, base = entry["timings"]["adder2d"], entry["timings"]["conv2d"]
        assert own["samples"] == base["samples"] == 2
        assert 0 < own["q1_s"] <= own["median_s"] <= own["q3_s"]
        assert entry["ratio"] == own["ratio"] == own["median_s"] / base["median_s"]
        passes = 1 if entry["pass"] == "forward" else 3
        assert entry["gtaps_per_s"] * own["median_s"] == pytest.approx(passes * TAPS / 1e9)


def test_a_wrong_operator_is_not_timed(adder: Operator) -> None:
    def wrong(*operands: Tensor) -> Tensor:
        return adder.function(*operands) + 0.01

    with pytest.raises(BenchmarkError, match="adder2d on n1c3o4x4x4k3x3p11 in fp32 is not timed"):
        bench_layer(replace(adder, function=wrong), LAYER, rounds=1)


def test_instruction_sets_are_forced_and_given_back(
    adder: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MULFREE_ISA", "before")
    seen: list[str] = []

    def spy(*operands: Tensor) -> Tensor:
        seen.append(os.environ["MULFREE_ISA"])
        return adder.function(*operands)

    entries = bench_isas(replace(adder, function=spy), LAYER, ["avx2", "scalar"], rounds=2)
    assert set(seen) == {"avx2", "scalar"}
    assert os.environ["MULFREE_ISA"] == "before"
    assert [entry["pass"] for entry in entries] == ["forward", "forward_backward"]
    for entry in entries:
        assert entry["timings"].keys() == entry["gtaps_per_s"].keys() == {"avx2", "scalar"}
        assert entry["timings"]["scalar"]["ratio"] > 0


def test_a_wrong_instruction_set_is_not_timed(adder: Operator) -> None:
    def wrong(*operands: Tensor) -> Tensor:
        return adder.function(*operands) * (1.0 if os.environ["MULFREE_ISA"] == "avx2" else 1.01)

    with pytest.raises(BenchmarkError, match="is not timed: error of its output"):
        bench_isas(replace(adder, function=wrong), LAYER, ["avx2", "scalar"], rounds=1)


def test_summary_is_the_geometric_mean_per_network_and_over_all() -> None:
    def entry(model: str, ratio: float) -> dict[str, object]:
        return {"model": model, "input": "relu", "pass": "forward", "ratio": ratio}

    summary = summarise([entry("a", 1.0), entry("a", 4.0), entry("b", 2.0)])
    assert [(row["model"], row["geometries"], row["ratio"]) for row in summary] == [
        ("a", 2, pytest.approx(2.0)),
        ("b", 1, pytest.approx(2.0)),
        ("all", 3, pytest.approx(math.cbrt(8.0))),
    ]
    assert [row["model"] for row in summarise([entry("a", 1.0)])] == ["a"]
    assert summarise([]) == []
