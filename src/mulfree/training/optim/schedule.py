"""Learning rate schedules as pure functions of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from mulfree.errors import ConfigError
from mulfree.training.checks import require, require_choice

_NAMES = ("constant", "cosine", "exponential", "one_cycle", "polynomial")
_PERIODS = ("epoch", "step")
# Initial and final rate of torch.optim.lr_scheduler.OneCycleLR, as divisors.
_ONE_CYCLE_START = 25.0
_ONE_CYCLE_END = 1e4


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Options of the learning-rate schedule.

    Attributes:
        name: Half a cosine, a polynomial, up and down once (one_cycle), steps of equal factors
            (exponential), or constant.
        per: Change the rate of cosine and polynomial every step or, as in the authors' code, every
            epoch. A one-cycle changes every step, and exponential every `decay_epochs`.
        warmup: Epochs of linear warm-up before the schedule; may be a fraction.
        power: Exponent of the polynomial.
        pct_start: Fraction of the run at which a one-cycle peaks.
        min_lr_ratio: Fraction of the peak rate at which cosine and polynomial end.
        gamma: Factor of exponential.
        decay_epochs: Epochs between its factors; may be a fraction.
    """

    name: Literal["cosine", "polynomial", "one_cycle", "exponential", "constant"] = "cosine"
    per: Literal["step", "epoch"] = "step"
    warmup: float = 0.0
    power: float = 0.9
    pct_start: float = 0.3
    min_lr_ratio: float = 0.0
    gamma: float = 0.97
    decay_epochs: float = 2.4

    def __post_init__(self) -> None:
        function = "ScheduleConfig"
        require_choice(function, "name", self.name, _NAMES)
        require_choice(function, "per", self.per, _PERIODS)
        require(function, "warmup", self.warmup, self.warmup >= 0, "be at least 0")
        require(function, "power", self.power, self.power > 0, "be positive")
        require(function, "pct_start", self.pct_start, 0 < self.pct_start < 1, "lie in (0, 1)")
        require(function, "gamma", self.gamma, 0 < self.gamma <= 1, "lie in (0, 1]")
        epochs = self.decay_epochs
        require(function, "decay_epochs", epochs, epochs > 0, "be positive")
        ratio = self.min_lr_ratio
        require(function, "min_lr_ratio", ratio, 0 <= ratio <= 1, "lie in [0, 1]")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    r"""Factor on the peak learning rate before each optimiser step.

    With `t` the finished fraction of the run after the warm-up (in whole epochs if the rate changes
    per epoch):

    - cosine: :math:`f + (1 - f) (1 + \cos \pi t) / 2`
    - polynomial: :math:`f + (1 - f) (1 - t)^{power}`
    - exponential: :math:`\gamma^{\lfloor e / d \rfloor}` with `e` the epochs since the warm-up and
      `d` of `decay_epochs`
    - one_cycle: as `torch.optim.lr_scheduler.OneCycleLR` with its defaults
    - constant: 1

    It holds no state, so it can be called for any step in any order; as a function of the step
    it also fits `torch.optim.lr_scheduler.LambdaLR`.

    Attributes:
        config: Shape of the schedule.
        epochs: Epochs of the run.
        steps_per_epoch: Optimiser steps of one epoch.

    References:
        arXiv 1912.13200, section 4 (polynomial, power 0.9); its released code (cosine by epoch).
        arXiv 1905.11946, section 5.2 (exponential, 0.97 every 2.4 epochs).
    """

    config: ScheduleConfig
    epochs: int
    steps_per_epoch: int

    def __post_init__(self) -> None:
        for field in ("epochs", "steps_per_epoch"):
            value = getattr(self, field)
            require("Schedule", field, value, value >= 1, "be at least 1")
        if self.config.warmup >= self.epochs and self.config.warmup > 0:
            raise ConfigError(
                f"Schedule: `warmup` must be shorter than the run of {self.epochs} epochs, "
                f"got {self.config.warmup}"
            )

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.epochs * self.steps_per_epoch

    def __call__(self, step: int) -> float:
        """Return the factor for optimiser step `step`, counted from 0."""
        config = self.config
        warmup = round(config.warmup * self.steps_per_epoch)
        if step < warmup:
            return (step + 1) / warmup
        remaining = self.total_steps - warmup
        step = min(step - warmup, remaining)
        if config.name == "constant":
            return 1.0
        if config.name == "one_cycle":
            return _one_cycle(step, remaining, config.pct_start)
        if config.name == "exponential":
            # Whole steps: quotients of fractions of an epoch would be rounded.
            period = max(1, round(config.decay_epochs * self.steps_per_epoch))
            return float(config.gamma ** (step // period))
        if config.per == "epoch":
            step -= step % self.steps_per_epoch
        t = step / remaining
        if config.name == "cosine":
            shape = (1 + math.cos(math.pi * t)) / 2
        else:
            shape = (1 - t) ** config.power
        return config.min_lr_ratio + (1 - config.min_lr_ratio) * shape


def _one_cycle(step: int, total: int, peak: float) -> float:
    top = peak * total - 1
    last = total - 1
    start, end = 1 / _ONE_CYCLE_START, 1 / (_ONE_CYCLE_START * _ONE_CYCLE_END)
    if step < top:
        return _half_cosine(start, 1.0, step / top)
    return _half_cosine(1.0, end, min((step - top) / (last - top), 1.0))


def _half_cosine(start: float, end: float, t: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * t)) / 2
