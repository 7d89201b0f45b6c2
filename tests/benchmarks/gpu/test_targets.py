from __future__ import annotations

from typing import Any

from benchmarks.gpu.targets import best_step, targets


def layer(model: str, kernel: int, share: float | None, precision: str = "fp32") -> dict[str, Any]:
    problem = {"kernel": [kernel, kernel]}
    return {"model": model, "window": problem, "precision": precision, "limit_share": share}


def step(
    model: str, batch: int, own: float, base: float, precision: str = "fp32"
) -> dict[str, Any]:
    return {
        "model": model,
        "batch": batch,
        "precision": precision,
        "best": {"adder2d": "adder2d channels_last", "conv2d": "conv2d"},
        "timings": {
            "adder2d channels_last": {"median_s": own},
            "conv2d": {"median_s": base},
        },
    }


def measured(**parts: list[dict[str, Any]]) -> list[float | None]:
    named = {name: {"entries": entries} for name, entries in parts.items()}
    return [row["measured"] for row in targets(named, "adder2d")]


def test_nothing_measured_is_neither_met_nor_missed() -> None:
    assert [(row["measured"], row["met"]) for row in targets({}, "adder2d")] == [(None, None)] * 4
    assert measured(forward=[{"model": "resnet18", "error": "x"}]) == [None] * 4


def test_the_worst_3x3_layer_counts() -> None:
    layers = [
        layer("resnet18", 3, 0.8),
        layer("resnet50", 3, 0.75),
        layer("resnet50", 1, 0.3),
        layer("resnet20", 3, 0.2),
        layer("resnet18", 3, 0.1, "bf16"),
        layer("resnet18", 3, None),
    ]
    assert measured(forward=layers)[0] == 0.75


def test_the_fastest_mode_of_each_counts() -> None:
    steps = [
        step("resnet20", 256, 0.005, 0.004),
        step("resnet20", 128, 0.001, 0.001),
        step("resnet20", 256, 0.002, 0.001, "bf16"),
        step("resnet50", 64, 0.3, 0.1),
    ]
    compiled = [step("resnet50", 64, 0.2, 0.125)]
    parts = {"steps": {"entries": steps}, "compiled steps": {"entries": compiled}}
    rows = targets(parts, "adder2d")
    assert rows[1]["measured"] == 5.0
    assert rows[1]["met"] is True
    assert rows[2]["measured"] == 2.0
    assert rows[2]["met"] is True
    assert best_step(parts, "resnet20", "adder2d", ("fp32", "bf16")) == 0.001


def test_the_worst_memory_counts_and_may_miss() -> None:
    rows = targets({"memory": {"entries": [{"ratio": 1.0}, {"ratio": 1.2}]}}, "adder2d")
    assert (rows[3]["measured"], rows[3]["met"]) == (1.2, False)
