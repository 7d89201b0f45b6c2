"""GradientRule rules of the adder operator, as named values.

With the difference `d = x - w` of a tap, the operator is `y = -sum |d|` and a rule replaces the
derivative of one tap with respect to the weight and to the input:

=========  ==========================  ==========================  ==============================
name       towards the weight          towards the input           source
=========  ==========================  ==========================  ==============================
`adder`    `d`                         `-clamp(d, -1, 1)`          arXiv 1912.13200, Eq. 5-7
`sign`     `sign(d)`                   `-sign(d)`                  the true derivative, Eq. 4
`l<p>`     `p sign(d) |d|^(p-1)`       minus the same              arXiv 2105.14202, 1 <= p <= 2
=========  ==========================  ==========================  ==============================
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from mulfree.errors import ConfigError, quoted

_LP = re.compile(r"l([0-9]+(?:\.[0-9]+)?)")


@dataclass(frozen=True, kw_only=True)
class GradientRule:
    """A named gradient rule.

    Attributes:
        name: "adder", "sign" or "lp".
        p: Exponent of the norm of rule "lp".
    """

    name: str
    p: float = 1.0

    def towards_weight(self, difference: Tensor) -> Tensor:
        """Replacement of dy/dw of each tap, given `x - w`."""
        if self.name == "adder":
            return difference
        if self.name == "sign" or self.p == 1.0:
            return _sign(difference)
        return self.p * difference.sign() * difference.abs().pow(self.p - 1)

    def towards_input(self, difference: Tensor) -> Tensor:
        """Replacement of dy/dx of each tap, given `x - w`."""
        if self.name == "adder":
            return -torch.clamp(difference, -1, 1)
        return -self.towards_weight(difference)


def _sign(difference: Tensor) -> Tensor:
    # torch.sign of a NaN is 0, which would hide it.
    return torch.where(difference.isnan(), difference, difference.sign())


def parse_gradient(function: str, name: str) -> GradientRule:
    """The rule called `name`.

    Raises:
        ConfigError: No rule has that name.
    """
    if isinstance(name, str) and name in ("adder", "sign"):
        return GradientRule(name=name)
    match = _LP.fullmatch(name) if isinstance(name, str) else None
    if match and 1.0 <= float(match[1]) <= 2.0:
        return GradientRule(name="lp", p=float(match[1]))
    raise ConfigError(
        f"{function}: `gradient` must be adder, sign or l<p> with 1 <= p <= 2 (l2, l1.5), "
        f"got {quoted(name)}"
    )


def check_norm(function: str, norm: float) -> None:
    """Refuse an exponent of the forward pass for which there is no rule.

    Raises:
        ConfigError: It is not a number between 1 and 2.
    """
    if not isinstance(norm, (int, float)) or isinstance(norm, bool) or not 1.0 <= norm <= 2.0:
        raise ConfigError(f"{function}: `norm` must be between 1 and 2, got {quoted(norm)}")
