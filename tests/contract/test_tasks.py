"""Contract of every task, and of a new one: a folder and its name in the list."""

from __future__ import annotations

import copy
import importlib
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.contract.toys import task as toy
from tests.training.runs import make_config

from mulfree import tasks
from mulfree.cli.main import main
from mulfree.errors import ConfigError
from mulfree.tasks import FACETS, get_facet, get_task
from mulfree.training import evaluate, load_checkpoint, train

NAMES = (*tasks.TASKS, "toy")


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "TASKS", NAMES)
    monkeypatch.setitem(sys.modules, "mulfree.tasks.toy", toy)
    for facet in FACETS:
        module = importlib.import_module(f"tests.contract.toys.task.{facet}")
        monkeypatch.setitem(sys.modules, f"mulfree.tasks.toy.{facet}", module)


def batch(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs of a network with two of them, and targets."""
    return torch.tensor([[1.0, 3.0], [2.0, 0.0]]), torch.tensor([1, 0])


@pytest.mark.parametrize("name", NAMES)
def test_every_facet_is_there(name: str) -> None:
    task = get_task(name)
    outputs, targets = batch(name)
    assert task.targets.count(targets) == 2
    half = task.criterion.at_least_float32(outputs.bfloat16())
    assert torch.equal(half, outputs)
    outputs.requires_grad_()
    for loss in (
        task.criterion.loss(outputs, targets),
        task.criterion.soft_loss(outputs, outputs.flip(1), 2.0),
    ):
        assert loss.shape == ()
        (gradient,) = torch.autograd.grad(loss, outputs)
        assert gradient.isfinite().all()
    values = {"loss": task.criterion.loss(outputs, targets).detach()}
    values |= task.metrics.measure(outputs, targets)
    assert task.metrics.BEST in values
    compared = task.metrics.compare(outputs, outputs.flip(1), targets, "other")
    assert any(key.startswith("other_") for key in compared)
    means = task.metrics.Means()
    means.update(values | compared, 2)
    row = {f"test_{key}": value for key, value in means.compute().items()}
    assert row == {f"test_{k}": float(v) for k, v in (values | compared).items()}
    evaluator = task.metrics.Evaluator()
    evaluator.update(outputs.detach(), targets, outputs.detach().flip(1))
    result = evaluator.compute().values("other")
    assert result[task.metrics.BEST] == pytest.approx(row[f"test_{task.metrics.BEST}"])
    assert task.report.epoch_line(row, "test").startswith("test ")
    for label, curves in task.report.panels([*values, *compared]):
        assert all(curve.endswith(label) for curve in curves)
    assert task.report.summary(row)
    assert "other" in task.report.comparison(row, "other")
    assert len(task.outputs.NAMES) == 1
    ((meaning, number),) = task.outputs.decode(np.array([1.0, 3.0], np.float32), (), 1)
    assert meaning
    assert np.isfinite(number)


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_is_the_same_task(name: str) -> None:
    task = get_task(name)
    assert copy.deepcopy(task) == task == pickle.loads(pickle.dumps(task))


def test_outputs_are_decoded_without_torch() -> None:
    code = (
        "import sys; from mulfree.tasks import TASKS, get_facet\n"
        "for task in TASKS: get_facet(task, 'outputs')\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_task() -> None:
    with pytest.raises(ConfigError, match=r"get_task: `name` must be one of .*, got 'classify'"):
        get_facet("classify", "outputs")
    with pytest.raises(ConfigError, match=r"TaskConfig: `name` must be one of .*, got 'classify'"):
        make_config(task={"name": "classify"})


def test_a_toy_task_is_trained_and_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(
        tmp_path / "run",
        task={"name": "toy"},
        data={"validation": 0.25},
        trainer={"progress": "auto"},
    )
    result = train(config)
    assert "validation error " in capsys.readouterr().out
    best = min(row["validation_error"] for row in result.history)
    assert result.metrics["best_validation_error"] == best
    assert result.metrics["test_error"] >= 0
    assert not any("accuracy" in name for name in (*result.metrics, *result.history[0]))
    checkpoint = load_checkpoint(tmp_path / "run" / "last.ckpt")
    assert checkpoint.config.task.name == "toy"
    assert (
        train(checkpoint.config, checkpoint).metrics["test_error"] == result.metrics["test_error"]
    )
    batches: Any = [batch("toy")]
    assert evaluate(torch.nn.Identity(), batches, task=get_task("toy")).values("") == {"error": 1.0}
    path = tmp_path / "f.yaml"
    path.write_text(config.to_yaml().replace("/run", "/again"))
    assert main(["train", "--config", str(path), "--trainer.epochs=1"]) == 0
    assert "on synthetic: error " in capsys.readouterr().out
    assert main(["evaluate", str(tmp_path / "run")]) == 2
    line = "evaluate: the run must have the task classification, got 'toy'"
    assert line in capsys.readouterr().err
