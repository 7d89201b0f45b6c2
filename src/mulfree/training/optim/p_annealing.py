"""The norm of adder layers, annealed from the square to the absolute value while training."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from mulfree.nn import Adder2d, AdderLinear
from mulfree.training.checks import require

# The rule of a layer is a string, of which there should be few, not one of every step.
_DIGITS = 2


@dataclass(frozen=True, kw_only=True)
class NormConfig:
    r"""Whether adder layers start as :math:`-\sum |x - w|^p` with p above 1.

    Attributes:
        start: p at the first step; 1 turns the annealing off.
        fraction: Part of the run in which p falls linearly to 1.

    References:
        arXiv 2105.14202 (Universal Adder Neural Networks).
    """

    start: float = 1.0
    fraction: float = 0.5

    def __post_init__(self) -> None:
        require("NormConfig", "start", self.start, 1 <= self.start <= 2, "lie in [1, 2]")
        fraction = self.fraction
        require("NormConfig", "fraction", fraction, 0 < fraction <= 1, "lie in (0, 1]")


class NormAnnealing:
    """Sets the norm of all adder layers of a network by the step.

    As long as p is above 1 a layer computes with that p and learns by the derivative of that
    power, rule `l<p>`. From then on it is an ordinary adder layer with the rule it had before.

    Args:
        model: The network whose layers are set.
        config: Start and length.
        total_steps: Steps of the whole run.

    Attributes:
        current: The p that the layers have.
    """

    def __init__(self, model: nn.Module, config: NormConfig, total_steps: int) -> None:
        self.config = config
        self.total_steps = total_steps
        layers = [m for m in model.modules() if isinstance(m, (Adder2d, AdderLinear))]
        self._layers = [(layer, layer.gradient) for layer in layers]
        self.current = 1.0

    def norm(self, step: int) -> float:
        """The p of a step, rounded to hundredths."""
        t = min(step / (self.config.fraction * self.total_steps), 1.0)
        return round(self.config.start + (1 - self.config.start) * t, _DIGITS)

    def apply(self, step: int) -> None:
        """Sets every layer to the norm of the step."""
        p = self.norm(step)
        if p == self.current:
            return
        self.current = p
        for layer, gradient in self._layers:
            layer.norm = p
            layer.gradient = gradient if p == 1.0 else f"l{p:g}"
