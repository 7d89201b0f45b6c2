from __future__ import annotations

import sys
from typing import Any

import pytest

from mulfree.bench import suites
from mulfree.bench.suites import SUITES, BenchOptions, get_suite, memory, operator, step

PEAK = {"before": 0, "peak": 2, "added": 2}


def test_each_name_is_a_module_with_a_suite() -> None:
    for name in SUITES:
        suite = get_suite(name)
        assert max(map(len, suite.summary.split("\n"))) <= 88
        assert suite.parts(BenchOptions(quick=True)) > 0


def test_quick_is_one_network_and_few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int, int]] = []

    def spy(entry: Any, layer: Any, *, rounds: int, device: Any) -> list[dict[str, Any]]:
        seen.append((layer.model, layer.problem.batch, rounds))
        return []

    monkeypatch.setattr(operator, "bench_layer", spy)
    for options, expected in (
        (BenchOptions(quick=True), {("resnet20", 8, 3)}),
        (BenchOptions(), {("resnet20", 128, 15), ("resnet18", 8, 15)}),
        (BenchOptions(models=("lenet5_bn",), input_size=(1, 28, 28)), {("lenet5_bn", 8, 15)}),
    ):
        parts: list[str] = []
        operator.run(options, parts.append)
        assert set(seen) == expected
        assert len(parts) == operator.SUITE.parts(options)
        seen.clear()


def test_the_device_reaches_every_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def measure(*args: Any, **settings: Any) -> Any:
        seen.append((settings.get("device") or settings["options"].device).type)
        return [] if "device" in settings else PEAK

    monkeypatch.setattr(operator, "bench_layer", measure)
    monkeypatch.setattr(step, "bench_step", measure)
    monkeypatch.setattr(memory, "step_memory", measure)
    options = BenchOptions(device="cuda", models=("lenet5_bn",), input_size=(1, 28, 28))
    for suite in (operator, step, memory):
        result = suite.run(options, lambda part: None)
    assert set(seen) == {"cuda"}
    assert result["ratio"] == 1.0


def test_a_suite_is_a_module_and_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = suites.Suite(
        summary="counts to three",
        parts=lambda options: 3,
        run=lambda options, advance: list(map(advance, "123")),
        report=lambda operator, result: f"{operator} {len(result)}",
    )
    monkeypatch.setitem(sys.modules, "mulfree.bench.suites.toy", type("toy", (), {"SUITE": toy}))
    monkeypatch.setattr(suites, "SUITES", (*SUITES, "toy"))
    suite = get_suite("toy")
    suite.check(BenchOptions())
    assert suite.report("adder2d", suite.run(BenchOptions(), lambda part: None)) == "adder2d 3"
