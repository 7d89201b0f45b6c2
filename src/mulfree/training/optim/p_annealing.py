"""Exponent p of adder layers, annealed from the square to the absolute value in training."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from mulfree.nn import Adder2d, AdderLinear
from mulfree.training.checks import require

# The gradient rule of a layer is a string; rounding keeps the number of rules small.
_DIGITS = 2


@dataclass(frozen=True, kw_only=True)
class PAnnealingConfig:
    r"""Options of adder layers that start as :math:`-\sum |x - w|^p` with p above 1.

    Attributes:
        start: p at the first step; 1 turns the annealing off.
        fraction: Part of the run in which p falls linearly to 1.

    References:
        arXiv 2105.14202 (Universal Adder Neural Networks).
    """

    start: float = 1.0
    fraction: float = 0.5

    def __post_init__(self) -> None:
        function, fraction = "PAnnealingConfig", self.fraction
        require(function, "start", self.start, 1 <= self.start <= 2, "lie in [1, 2]")
        require(function, "fraction", fraction, 0 < fraction <= 1, "lie in (0, 1]")


class PAnnealing:
    """Exponent of all adder layers of a network as a function of the step.

    While p is above 1 a layer computes with that p and its gradient rule is the derivative of the
    power, `l<p>`. Afterwards it is an ordinary adder layer with its former gradient rule.

    Args:
        model: The network.
        config: Start and length.
        total_steps: Steps of the whole run.

    Attributes:
        current: p of the layers now.
    """

    def __init__(self, model: nn.Module, config: PAnnealingConfig, total_steps: int) -> None:
        self.config = config
        self.total_steps = total_steps
        layers = [m for m in model.modules() if isinstance(m, (Adder2d, AdderLinear))]
        self._layers = [(layer, layer.gradient) for layer in layers]
        self.current = 1.0

    def exponent(self, step: int) -> float:
        """Return p at a step, rounded to hundredths."""
        t = min(step / (self.config.fraction * self.total_steps), 1.0)
        return round(self.config.start + (1 - self.config.start) * t, _DIGITS)

    def apply(self, step: int) -> None:
        """Set p of every layer to its value at a step."""
        p = self.exponent(step)
        if p == self.current:
            return
        self.current = p
        for layer, gradient in self._layers:
            layer.norm = p
            layer.gradient = gradient if p == 1.0 else f"l{p:g}"
