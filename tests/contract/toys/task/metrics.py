from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mulfree.tasks.means import Means as Means

BEST = "error"
HIGHER_IS_BETTER = False


def measure(outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    return {"error": (outputs.detach().mean(1) - targets).abs().mean()}


def compare(outputs: Tensor, reference: Tensor, targets: Tensor, name: str) -> dict[str, Tensor]:
    return {f"{name}_error": measure(reference, targets)["error"]}


@dataclass
class Result:
    error: float

    def values(self, reference: str) -> dict[str, float]:
        return {"error": self.error}


class Evaluator:
    def __init__(self) -> None:
        self.means = Means()

    def update(self, outputs: Tensor, targets: Tensor, reference: Tensor | None = None) -> None:
        error = measure(outputs, targets)["error"]
        self.means.update({"loss": error, "error": error}, len(targets))

    def compute(self) -> Result:
        return Result(self.means.compute()["error"])
