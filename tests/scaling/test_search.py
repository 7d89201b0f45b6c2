"""Searches with a function in the place of the training, and one that trains."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from mulfree import data
from mulfree.errors import ArtifactError, BackendUnavailableError, ConfigError, TrainingError
from mulfree.files import locked
from mulfree.models import ScaledModel
from mulfree.scaling import Costs, ratios, report
from mulfree.scaling import search as module
from mulfree.scaling.ratios import Constraint
from mulfree.scaling.report import plot
from mulfree.scaling.search import Search, SearchConfig
from mulfree.scaling.study import NAME, opened, storage_file
from mulfree.training import NetworkConfig, TrainConfig, TrainerConfig

Train = Callable[[TrainConfig, Path], "dict[str, Any] | None"]

CONFIG = TrainConfig(
    model=NetworkConfig(
        name="resnet20",
        operator="conv2d",
        options={"depth": 1 / 3, "width": 0.25, "channel_divisor": 1},
    ),
    data=data.DataConfig(name="synthetic", image_size=8, classes=2, limit=16, validation=0.02),
    trainer=TrainerConfig(epochs=1, progress="none", tensorboard=False),
)
SETTINGS = SearchConfig(constraint=Constraint(tolerance=0.3), step=0.5)


def results(config: TrainConfig, accuracy: float) -> dict[str, Any]:
    run = {"seed": config.trainer.seed, "seconds": 1.0, "steps": 2, "environment": {}}
    return {"validation_accuracy": accuracy, **run}


def by_size(config: TrainConfig, directory: Path) -> dict[str, Any]:
    directory.mkdir(parents=True)
    assert config.data.image_size is not None
    return results(config, config.data.image_size / 100)


def quick_costs(scaled: ScaledModel) -> Costs:
    operations = round(1e6 * scaled.depth * scaled.width**2 * scaled.image_size**2)
    params = round(1e6 * scaled.depth * scaled.width**2)
    return Costs(params=params, mul_add=operations, additions=operations, energy=4.6 * operations)


@pytest.fixture(autouse=True)
def trains(monkeypatch: pytest.MonkeyPatch) -> Callable[[Train], None]:
    def use(train: Train) -> None:
        monkeypatch.setattr(module, "trained", train)

    use(by_size)
    # Counting takes longer than all the rest.
    monkeypatch.setattr(module, "costs_of", quick_costs)
    monkeypatch.setattr(ratios, "costs_of", quick_costs)
    # So does drawing, after every trial.
    monkeypatch.setattr(report, "plot", lambda *_: None)
    return use


@pytest.fixture(params=["journal", "sqlite"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    names = {"journal": f"{tmp_path}/study.log", "sqlite": f"sqlite:///{tmp_path}/study.db"}
    return names[request.param]


def states(content: dict[str, Any]) -> list[str]:
    return [row["state"] for row in content["trials"]]


def test_the_grid_is_trained_and_the_best_held_out_accuracy_wins(
    storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "plot", plot)
    search = Search(CONFIG, SETTINGS, tmp_path / "out", storage)
    named: list[str] = []
    assert search.candidates() == len(list(search.results()["trials"])) >= 3
    assert search.run(named.append)
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    assert set(states(content)) == {"COMPLETE"}
    assert len(named) == len(content["trials"])
    largest = max(content["trials"], key=lambda row: row["image_size"])
    assert content["best"]["gamma"] == largest["gamma"] == 1.5
    assert content["best"]["validation_accuracy"] == largest["image_size"] / 100
    assert content["config"]["trainer"]["seed"] == 0
    assert content["environment"]["commit"] == search.results()["environment"]["commit"]
    assert (tmp_path / "out" / "accuracy.png").stat().st_size > 1000
    # Nothing is left to do.
    assert Search(CONFIG, SETTINGS, tmp_path / "out", storage).run(named.append)
    assert len(named) == len(content["trials"])


def test_candidates_differ_in_the_scaled_sizes_alone(
    tmp_path: Path, trains: Callable[[Train], None]
) -> None:
    seen: list[TrainConfig] = []

    def record(config: TrainConfig, directory: Path) -> dict[str, Any]:
        seen.append(config)
        return results(config, 0.5)

    trains(record)
    assert Search(CONFIG, SETTINGS, tmp_path).run()
    for config in seen:
        assert config.optimizer == CONFIG.optimizer
        assert config.trainer == CONFIG.trainer
        assert config.data == replace(CONFIG.data, image_size=config.data.image_size)
        assert config.model.options.keys() == CONFIG.model.options.keys()
    assert len({json.dumps(config.to_dict()) for config in seen}) == len(seen)


def test_failures_are_recorded_and_interruptions_retried(
    tmp_path: Path, trains: Callable[[Train], None]
) -> None:
    calls: list[Path] = []

    def breaking(config: TrainConfig, directory: Path) -> dict[str, Any] | None:
        calls.append(directory)
        if len(calls) == 1:
            raise TrainingError("the loss is not finite")
        return None if len(calls) == 2 else by_size(config, directory)

    trains(breaking)
    assert not Search(CONFIG, SETTINGS, tmp_path).run()
    search = Search(CONFIG, SETTINGS, tmp_path)
    total = search.candidates()
    assert search.run()
    content = search.results()
    failed = [row for row in content["trials"] if row["state"] == "FAIL"]
    assert [row.get("error") for row in failed] == ["the loss is not finite", None]
    # The interrupted candidate goes on in its directory; the failed one is not repeated.
    assert calls.count(calls[0]) == 1
    assert calls.count(calls[1]) == 2
    assert states(content).count("COMPLETE") == total - 2
    assert len({row["candidate"] for row in content["trials"]}) == total - 1


def test_candidates_of_killed_processes_are_retried(tmp_path: Path) -> None:
    search = Search(CONFIG, SETTINGS, tmp_path)
    total = search.candidates()
    with search._opened() as (study, _):
        for token in ("a" * 16, "b" * 16):
            study.ask().set_user_attr("worker", token)
    alive = tmp_path / "workers" / ("b" * 16)
    alive.mkdir(parents=True)
    with locked(alive):
        assert search.run()
    assert sorted(states(search.results())) == ["COMPLETE"] * (total - 1) + ["FAIL", "RUNNING"]


def test_tpe_on_the_constraint(tmp_path: Path) -> None:
    settings = SearchConfig(sampler="tpe", trials=4)
    search = Search(CONFIG, settings, tmp_path)
    assert search.candidates() == 4
    assert search.run()
    rows = search.results()["trials"]
    assert len(rows) == 4
    for row in rows:
        assert row["growth"] == pytest.approx(2)
        assert row["alpha"] * row["beta"] ** 2 * row["gamma"] ** 2 == pytest.approx(2)
    more = Search(CONFIG, replace(settings, trials=5), tmp_path)
    assert more.run()
    assert len(more.results()["trials"]) == 5


def test_a_growth_that_no_power_reaches_is_pruned(tmp_path: Path) -> None:
    settings = SearchConfig(
        sampler="tpe", trials=1, constraint=Constraint(kind="mul-add", growth=2, tolerance=1e-6)
    )
    search = Search(CONFIG, settings, tmp_path)
    assert search.run()
    assert states(search.results()) == ["PRUNED"]
    assert search.results()["best"] is None


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (replace(CONFIG, model=replace(CONFIG.model, operator="adder2d")), SETTINGS, "operator"),
        (replace(CONFIG, trainer=replace(CONFIG.trainer, epochs=2)), SETTINGS, "trainer.epochs"),
        (CONFIG, replace(SETTINGS, step=0.25), "step"),
        (CONFIG, replace(SETTINGS, sampler="tpe"), "sampler"),
        (CONFIG, replace(SETTINGS, constraint=Constraint(tolerance=0.2)), "constraint.tolerance"),
    ],
)
def test_a_study_of_another_search_is_refused(
    config: TrainConfig, settings: SearchConfig, message: str, tmp_path: Path
) -> None:
    Search(CONFIG, SETTINGS, tmp_path).candidates()
    with pytest.raises(ConfigError, match=f"scale search: `.*{message}` must be .* as in the stud"):
        Search(config, settings, tmp_path).run()


def test_a_study_of_another_program_is_refused(storage: str, tmp_path: Path) -> None:
    search = Search(CONFIG, SETTINGS, tmp_path / "out", storage)
    search.candidates()
    with search._opened() as (study, _):
        study.add_trial(optuna.trial.create_trial(value=1.0, user_attrs={"candidate": "../../x"}))
    with pytest.raises(ArtifactError, match="`--storage` must hold the trials of this search alo"):
        search.run()


def test_what_is_no_study_is_refused(storage: str, tmp_path: Path) -> None:
    storage_file(storage).write_bytes(b"\x80\x04}nonsense\n" * 40)
    with pytest.raises(ArtifactError, match=r"`--storage` must be a study of Optuna, got .*study"):
        Search(CONFIG, SETTINGS, tmp_path / "out", storage).candidates()


@pytest.mark.parametrize(
    "storage",
    ["", "postgresql://host/db", "redis://host", "sqlite:///a.db?uri=true", "sqlite+evil:///x"],
)
def test_other_storages_are_refused(storage: str) -> None:
    with pytest.raises(ConfigError, match="`--storage` must be sqlite:///FILE or the path of a jo"):
        storage_file(storage)


def test_without_optuna(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with (
        pytest.raises(BackendUnavailableError, match=r"pip install 'mulfree\[search\]'"),
        opened(str(tmp_path / "study"), {}, "grid", 0),
    ):
        pass


def test_images_must_be_held_out(tmp_path: Path) -> None:
    config = replace(CONFIG, data=replace(CONFIG.data, validation=0.0))
    with pytest.raises(ConfigError, match=r"`data.validation` must be above 0, .* got 0.0"):
        Search(config, SETTINGS, tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampler": "random"}, "`sampler` must be one of grid, tpe, got 'random'"),
        ({"trials": 0}, "`trials` must be "),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SearchConfig(**settings)


def test_the_name_of_the_study() -> None:
    # It stands in files.
    assert NAME == "mulfree-scale"
