from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from mulfree.errors import ConfigError
from mulfree.training import Schedule, ScheduleConfig


def make(epochs: int = 10, steps: int = 10, **values: Any) -> Schedule:
    return Schedule(config=ScheduleConfig(**values), epochs=epochs, steps_per_epoch=steps)


def test_cosine_by_step() -> None:
    schedule = make(name="cosine")
    assert schedule.total_steps == 100
    assert [schedule(s) for s in (0, 25, 50, 75, 100)] == pytest.approx(
        [1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0.0]
    )


def test_cosine_by_epoch_is_the_authors() -> None:
    schedule = make(epochs=400, steps=3, name="cosine", per="epoch")
    for epoch in (0, 1, 133, 399):
        expected = 0.05 * (1 + math.cos(math.pi * epoch / 400))
        for step in range(3):
            assert 0.1 * schedule(3 * epoch + step) == pytest.approx(expected, rel=1e-12)


def test_polynomial() -> None:
    schedule = make(name="polynomial")
    assert schedule(0) == 1.0
    assert schedule(40) == pytest.approx(0.6**0.9)
    assert schedule(100) == 0.0
    assert make(name="polynomial", power=2.0, per="epoch")(49) == pytest.approx(0.36)


def test_min_lr_ratio() -> None:
    assert make(name="cosine", min_lr_ratio=0.1)(100) == pytest.approx(0.1)
    assert make(name="polynomial", min_lr_ratio=0.1, power=1.0)(50) == pytest.approx(0.55)


def test_constant() -> None:
    assert {make(name="constant")(s) for s in range(101)} == {1.0}


def test_one_cycle_is_that_of_torch() -> None:
    schedule = make(name="one_cycle", pct_start=0.4)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=2.0, total_steps=100, pct_start=0.4
    )
    for step in range(100):
        assert 2.0 * schedule(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        cycle.step() if step < 99 else None


def test_exponential_every_few_epochs_after_the_warmup() -> None:
    schedule = make(epochs=20, steps=5, name="exponential", warmup=2.0, per="epoch")
    assert [schedule(s) for s in (4, 9, 10, 21)] == pytest.approx([0.5, 1.0, 1.0, 1.0])
    # 2.4 epochs of 5 steps are 12 steps.
    assert [schedule(s) for s in (22, 33, 34, 46)] == pytest.approx([0.97, 0.97, 0.97**2, 0.97**3])
    assert make(name="exponential", gamma=0.5, decay_epochs=0.01)(3) == 0.125


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_one_cycle_of_a_few_steps(steps: int) -> None:
    schedule = make(epochs=1, steps=steps, name="one_cycle")
    assert all(0 < schedule(s) <= 1 for s in range(steps + 1))


def test_warmup_is_linear_and_the_rest_starts_after_it() -> None:
    schedule = make(name="cosine", warmup=2.5)
    assert [schedule(s) for s in (0, 4, 24)] == pytest.approx([1 / 25, 0.2, 1.0])
    assert schedule(25) == 1.0
    assert schedule(25 + 75 // 3) == pytest.approx(0.75)
    assert schedule(100) == pytest.approx(0.0)


def test_it_fits_lambda_lr() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.2)
    torch.optim.lr_scheduler.LambdaLR(optimizer, make(name="cosine", warmup=1.0))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.02)


def test_bad_lengths() -> None:
    with pytest.raises(ConfigError, match="Schedule: `epochs` must be at least 1, got 0"):
        make(epochs=0)
    with pytest.raises(ConfigError, match="Schedule: `steps_per_epoch` must be at least 1, got 0"):
        make(steps=0)
    pattern = "Schedule: `warmup` must be shorter than the run of 10 epochs, got 10.0"
    with pytest.raises(ConfigError, match=pattern):
        make(warmup=10.0)
