from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Optimizer

from mulfree.profiling import step_bench

SETTINGS: dict[str, Any] = {"model": "lenet5_bn", "batch": 2, "input_size": (1, 28, 28)}


def sgd(network: nn.Module) -> Optimizer:
    return SGD(network.parameters(), lr=0.01)


def test_a_step_trains() -> None:
    networks: list[nn.Module] = []

    def remember(network: nn.Module) -> Optimizer:
        networks.append(network)
        return sgd(network)

    step = step_bench.training_step("lenet5_bn", "conv2d", 2, (1, 28, 28), remember)
    before = [parameter.detach().clone() for parameter in networks[0].parameters()]
    step()
    after = list(networks[0].parameters())
    assert networks[0].training
    assert not all(torch.equal(new, old) for new, old in zip(after, before, strict=True))


def test_the_network_is_timed_against_its_convolutional_twin() -> None:
    result = step_bench.bench_step(**SETTINGS, operator="adder2d", rounds=2, make_optimizer=sgd)
    own, base = result["timings"]["adder2d"], result["timings"]["conv2d"]
    assert result["model"] == "lenet5_bn"
    assert result["input_size"] == [1, 28, 28]
    assert own["samples"] == base["samples"] == 2
    assert result["ratio"] == own["median_s"] / base["median_s"]


def test_memory_is_that_of_steps_of_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []
    original = step_bench.training_step

    def spy(model: str, operator: str, batch: int, *rest: Any) -> Any:
        batches.append(batch)
        return original(model, operator, batch, *rest)

    monkeypatch.setattr(step_bench, "training_step", spy)
    settings: dict[str, Any] = {"model": "resnet20", "batch": 3, "input_size": (3, 8, 8)}
    memory = step_bench.step_memory(**settings, operator="conv2d", make_optimizer=sgd)
    assert batches == [2, 3]
    assert memory["added"] == memory["peak"] - memory["before"] > 0
