"""Facets of a task; each is a module of the task's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from mulfree.tasks.means import Means


class Targets(Protocol):
    """Targets of a batch, the second entry of a loader's batch."""

    def count(self, targets: Any) -> int:
        """Return the number of images."""

    def model_arguments(self, classes: Sequence[str]) -> dict[str, Any]:
        """Return the arguments of `create_model` that follow from the classes of the data."""


class Criterion(Protocol):
    """Losses: scalar means over the images of a batch."""

    def at_least_float32(self, outputs: Any) -> Any:
        """Convert outputs in half precision to float32."""

    def loss(self, outputs: Any, targets: Any, *, label_smoothing: float = 0.0) -> Tensor:
        """Return the loss of a network's outputs on the targets."""

    def soft_loss(self, outputs: Any, reference: Any, temperature: float) -> Tensor:
        """Return the loss on the outputs of another network, which get no gradient."""


class Evaluator(Protocol):
    """Metrics over a whole set of images."""

    def update(self, outputs: Any, targets: Any, reference: Any = None) -> None:
        """Add a batch, with the outputs of a network to compare with."""

    def compute(self) -> Any:
        """Return the metrics."""


class Metrics(Protocol):
    """Metrics, and the one that chooses the best epoch."""

    BEST: str
    HIGHER_IS_BETTER: bool

    @property
    def Means(self) -> type[Means]:
        """Class of the means over an epoch."""

    @property
    def Evaluator(self) -> type[Evaluator]:
        """Class of the metrics over a whole set of images."""

    def measure(self, outputs: Any, targets: Any) -> dict[str, Tensor]:
        """Return the metrics of a batch, scalar means over its images."""

    def compare(self, outputs: Any, reference: Any, targets: Any, name: str) -> dict[str, Tensor]:
        """Return the metrics of the comparison with a network called `name`."""


class Report(Protocol):
    """Words and curves for a user."""

    def epoch_line(self, row: Mapping[str, float], part: str) -> str:
        """Return the metrics of an epoch on one part of the data."""

    def panels(self, names: Sequence[str]) -> list[tuple[str, list[str]]]:
        """Return a label and the curves of every panel, out of the names of metrics."""

    def summary(self, metrics: Mapping[str, Any]) -> str:
        """Return the result on the test images."""

    def comparison(self, metrics: Mapping[str, Any], name: str) -> str:
        """Return the comparison with the network called `name` on the test images."""


class Outputs(Protocol):
    """Outputs of an exported graph; torch is not needed."""

    NAMES: tuple[str, ...]

    def decode(self, outputs: Any, names: Sequence[str], count: int) -> list[tuple[str, float]]:
        """Return what the outputs for one image mean."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task with all its facets.

    Attributes:
        name: Name of the task.
        targets: Targets of a batch.
        criterion: Losses.
        metrics: Metrics.
        report: Words and curves.
        outputs: Outputs of an exported graph.
    """

    name: str
    targets: Targets
    criterion: Criterion
    metrics: Metrics
    report: Report
    outputs: Outputs

    def __reduce__(self) -> tuple[Any, ...]:
        # Modules cannot be copied or pickled.
        from mulfree.tasks import get_task

        return get_task, (self.name,)


FACETS = tuple(field.name for field in fields(Task) if field.name != "name")
