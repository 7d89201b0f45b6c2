from __future__ import annotations

from typing import Any

import pytest
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


def test_the_worst_layer_and_memory_and_the_fastest_mode_count() -> None:
    layers = [
        layer("resnet18", 3, 0.8),
        layer("resnet50", 3, 0.75),
        layer("resnet50", 1, 0.3),
        layer("resnet20", 3, 0.2),
        layer("resnet18", 3, 0.1, "bf16"),
        layer("resnet18", 3, None),
        {"model": "resnet18", "error": "x"},
    ]
    steps = [
        step("resnet20", 256, 0.005, 0.004),
        step("resnet20", 128, 0.001, 0.001),
        step("resnet20", 256, 0.002, 0.001, "bf16"),
        step("resnet50", 64, 0.3, 0.1),
    ]
    entries = {
        "forward": layers,
        "steps": steps,
        "compiled steps": [step("resnet50", 64, 0.2, 0.125)],
        "memory": [{"ratio": 1.0}, {"ratio": 1.2}],
    }
    parts = {name: {"entries": found} for name, found in entries.items()}
    rows = [(row["measured"], row["met"]) for row in targets(parts, "adder2d")]
    assert rows == [(0.75, True), (pytest.approx(5.0), True), (2.0, True), (1.2, False)]
    assert best_step(parts, "resnet20", "adder2d", ("fp32", "bf16")) == 0.001
    # What is not measured is neither met nor missed.
    assert [(row["measured"], row["met"]) for row in targets({}, "adder2d")] == [(None, None)] * 4
