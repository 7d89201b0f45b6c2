"""Search of the ratios of compound scaling: each candidate is trained for a short budget.

References:
    EfficientNet, arXiv 1905.11946, section 3.3, step 1.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mulfree.environment import environment
from mulfree.errors import ArtifactError, ConfigError, TrainingError, choices_message, quoted
from mulfree.files import locked, write_atomically
from mulfree.models import ScaledModel, scale
from mulfree.scaling.costs import costs_of
from mulfree.scaling.ratios import PRODUCT, Constraint, Growth, Ratios, direction, grid
from mulfree.scaling.runs import scaled_config, sized, trained
from mulfree.scaling.study import opened
from mulfree.tasks import get_task
from mulfree.training import TrainConfig
from mulfree.training.checks import require_count
from mulfree.training.run.config import leaves
from mulfree.training.run.directory import FREE_ON_RESUME

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

SCHEMA = "mulfree.scale-search/1"
SAMPLERS = ("grid", "tpe")
RESULTS, PLOT, JOURNAL = "results.json", "accuracy.png", "study.journal"
_TRIALS, _WORKERS = "trials", "workers"
# Attributes of a trial beside its results.
_CANDIDATE, _WORKER, _RETRY = "candidate", "worker", "retry_of"
# Results that tables and plots show.
_NUMBERS = (*Ratios._fields, "growth", "params", "mul_add", "additions", "energy", "image_size")
_TOKEN = re.compile(r"[0-9a-f]{16}")

Advance = Callable[[str], None]
"""Called with the name of a candidate before it is trained."""


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """Settings of a search.

    Attributes:
        constraint: Growth of the cost at phi = 1.
        sampler: "grid" for all ratios on a grid, or "tpe" for Optuna's TPE on the constraint.
        step: Step of the grid.
        trials: Candidates of "tpe".

    Raises:
        ConfigError: A value is out of range.
    """

    constraint: Constraint = field(default_factory=Constraint)
    sampler: str = "grid"
    step: float = 0.1
    trials: int = 20

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise ConfigError(choices_message("scale search", "sampler", self.sampler, SAMPLERS))
        require_count("SearchConfig", "trials", self.trials)


class Search:
    """A search that several processes may run in one directory.

    Args:
        config: The run of every candidate; its network and images belong to phi = 0. Candidates
            are compared by the accuracy on its held-out images after the last epoch.
        settings: The search.
        output: Directory of the runs and results.
        storage: `sqlite:///FILE` or the path of a journal file; by default a journal in `output`.

    Raises:
        ConfigError: No images are held out, or the network cannot be scaled.
        DataError: The data set is not found.
    """

    def __init__(
        self, config: TrainConfig, settings: SearchConfig, output: Path, storage: str | None = None
    ) -> None:
        config = replace(config, trainer=replace(config.trainer, output=None))
        self.config, self.options, splits = sized(config)
        if splits.validation is None:
            raise ConfigError(
                "scale search: `data.validation` must be above 0, as candidates are compared on "
                f"held-out training images, got {config.data.validation}"
            )
        self.settings = settings
        self.output = output
        self.storage = str(output / JOURNAL) if storage is None else storage
        self.name = config.model.name
        # Refuses a network that cannot be scaled before anything is written.
        scale(self.name, 0, **self.options)
        self.growth = Growth(settings.constraint, self.name, self.options)
        metrics = get_task(config.task.name).metrics
        self.metric = f"validation_{metrics.BEST}"

    def run(self, advance: Advance = lambda name: None) -> bool:
        """Train the candidates that are left, and write the results after each.

        Returns:
            False if it was interrupted; the candidate is retried by the next run.

        Raises:
            ConfigError: The study belongs to another search.
            BackendUnavailableError: Optuna is not installed.
        """
        self.output.mkdir(parents=True, exist_ok=True)
        worker = self.output / _WORKERS / secrets.token_hex(8)
        worker.mkdir(parents=True)
        with locked(worker):
            with self._opened() as (study, new):
                if new and self.settings.sampler == "grid":
                    self._enqueue(study)
                self._retry_abandoned(study)
            while (trial := self._next(study, worker.name)) is not None:
                if not self._train(study, trial, advance):
                    return False
                self._write(study)
        with contextlib.suppress(OSError):
            worker.rmdir()
        self._write(study)
        return True

    def candidates(self) -> int:
        """Number of candidates in the study, or of those that will be."""
        with self._opened() as (study, new):
            if new and self.settings.sampler == "grid":
                self._enqueue(study)
            return self.settings.trials if self.settings.sampler == "tpe" else len(_own(study))

    def results(self) -> dict[str, Any]:
        """Content of results.json."""
        with self._opened() as (study, _):
            return self._content(study)

    def _opened(self) -> contextlib.AbstractContextManager[tuple[Study, bool]]:
        settings: dict[str, Any] = {
            name: value
            for name, value in leaves(self.config.to_dict())
            if name not in FREE_ON_RESUME
        }
        own = asdict(self.settings)
        # More candidates of TPE may be trained later.
        del own["trials"]
        settings |= dict(leaves(own))
        return opened(self.storage, settings, self.settings.sampler, self.config.trainer.seed)

    def _enqueue(self, study: Study) -> None:
        for index, ratios in enumerate(grid(self.growth, self.settings.step)):
            study.enqueue_trial(ratios._asdict(), user_attrs={_CANDIDATE: index})

    def _retry_abandoned(self, study: Study) -> None:
        """Return candidates of processes that were killed to the queue."""
        for trial in _own(study):
            worker = str(trial.user_attrs.get(_WORKER))
            if trial.state.name == "RUNNING" and _TOKEN.fullmatch(worker):
                directory = self.output / _WORKERS / worker
                directory.mkdir(exist_ok=True)
                with contextlib.suppress(BlockingIOError), locked(directory):
                    self._retry(study, trial.number)

    @staticmethod
    def _retry(study: Study, number: int) -> None:
        from optuna.trial import TrialState

        trial = study.get_trials(deepcopy=False)[number]
        # A process that was killed early has not read the parameters of the queue.
        params = trial.params or trial.system_attrs.get("fixed_params", {})
        attributes = {_CANDIDATE: trial.user_attrs[_CANDIDATE], _RETRY: number}
        study.tell(number, state=TrialState.FAIL)
        study.enqueue_trial(dict(params), user_attrs=attributes)

    def _next(self, study: Study, worker: str) -> Trial | None:
        """Begin the next candidate; None if none is left."""
        from optuna.trial import TrialState

        trials = _own(study)
        waiting = any(trial.state == TrialState.WAITING for trial in trials)
        if not waiting:
            retried = {trial.user_attrs.get(_RETRY) for trial in trials}
            begun = sum(trial.number not in retried for trial in trials)
            if self.settings.sampler == "grid" or begun >= self.settings.trials:
                return None
        trial = study.ask()
        trial.set_user_attr(_WORKER, worker)
        if _CANDIDATE not in trial.user_attrs:
            if self.settings.sampler == "grid":
                # Another process has begun the last of the queue in between.
                study.tell(trial, state=TrialState.FAIL)
                return None
            trial.set_user_attr(_CANDIDATE, trial.number)
        return trial

    def _ratios(self, trial: Trial) -> Ratios:
        if self.settings.sampler == "grid":
            return Ratios(*(trial.suggest_float(name, 1.0, 4.0) for name in Ratios._fields))
        shares = (trial.suggest_float(name, 0.0, 1.0) for name in ("depth", "width"))
        return self.growth.normalised(direction(*shares))

    def _train(self, study: Study, trial: Trial, advance: Advance) -> bool:
        from optuna.trial import TrialState

        ratios = self._ratios(trial)
        scaled, growth = self.growth.scaled(ratios), self.growth(ratios)
        for name, value in self._facts(ratios, scaled, growth).items():
            trial.set_user_attr(name, value)
        if not self.settings.constraint.holds(growth):
            study.tell(trial, state=TrialState.PRUNED)
            return True
        directory = self.output / _TRIALS / f"{trial.user_attrs[_CANDIDATE]:03d}"
        advance(", ".join(f"{name} {value:.3g}" for name, value in ratios._asdict().items()))
        try:
            results = trained(scaled_config(self.config, scaled), directory)
        except KeyboardInterrupt:
            self._retry(study, trial.number)
            raise
        except TrainingError as error:
            trial.set_user_attr("error", str(error))
            study.tell(trial, state=TrialState.FAIL)
            return True
        except Exception as error:
            trial.set_user_attr("error", f"{type(error).__name__}: {error}"[:400])
            study.tell(trial, state=TrialState.FAIL)
            raise
        if results is None:
            self._retry(study, trial.number)
            return False
        for name in ("seed", "seconds", "steps", "environment"):
            trial.set_user_attr(name, results[name])
        study.tell(trial, results[self.metric])
        return True

    def _facts(self, ratios: Ratios, scaled: ScaledModel, growth: float) -> dict[str, Any]:
        multipliers = {"depth": scaled.depth, "width": scaled.width}
        return {
            **ratios._asdict(),
            **multipliers,
            "image_size": scaled.image_size,
            "growth": growth,
            **asdict(costs_of(scaled)),
        }

    def _content(self, study: Study) -> dict[str, Any]:
        rows = [
            {
                "trial": trial.number,
                "state": trial.state.name,
                self.metric: trial.value,
                **{name: value for name, value in trial.user_attrs.items() if name != _WORKER},
            }
            for trial in _own(study)
        ]
        complete = [row for row in rows if row["state"] == "COMPLETE"]
        best = max(complete, key=lambda row: row[self.metric], default=None)
        return {
            "schema": SCHEMA,
            "environment": environment(),
            "metric": self.metric,
            "cost": self.cost,
            "settings": asdict(self.settings),
            "config": self.config.to_dict(),
            "best": best and {name: best[name] for name in ("trial", *Ratios._fields, self.metric)},
            "trials": rows,
        }

    @property
    def cost(self) -> str:
        """Cost on the axis of the plot, as a name of `Costs`."""
        kind = self.settings.constraint.kind
        return "mul_add" if kind == PRODUCT else kind.replace("-", "_")

    def _write(self, study: Study) -> None:
        from mulfree.scaling.report import plot

        content = self._content(study)
        text = json.dumps(content, indent=1)
        write_atomically(self.output / RESULTS, text.encode() + b"\n")
        points = {
            f"{row['alpha']:.2f} {row['beta']:.2f} {row['gamma']:.2f}": (
                row[self.cost],
                row[self.metric],
            )
            for row in content["trials"]
            if row["state"] == "COMPLETE"
        }
        if points:
            label = f"{self.name} {self.config.model.operator}: alpha, beta, gamma"
            plot(
                {label: points},
                self.cost.replace("_", "-"),
                self.metric.replace("_", " "),
                self.output / PLOT,
            )


def _own(study: Study) -> list[FrozenTrial]:
    """Trials of candidates, without surplus ones.

    Raises:
        ArtifactError: The storage was changed by another program.
    """
    trials = [trial for trial in study.get_trials(deepcopy=False) if _CANDIDATE in trial.user_attrs]
    for trial in trials:
        facts = trial.user_attrs
        numbers = [facts.get(name) for name in _NUMBERS] if trial.state.name == "COMPLETE" else []
        if type(facts[_CANDIDATE]) is not int or any(
            type(number) not in (int, float) for number in numbers
        ):
            raise ArtifactError(
                "scale search: `--storage` must hold the trials of this search alone, got trial "
                f"{trial.number} with {quoted(facts)}"
            )
    return trials
