"""A new method is a module and its name in the list; nothing else changes."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
from tests.training.runs import make_config
from tests.training.test_task import ToyConfig, ToyTask

from mulfree.errors import ConfigError
from mulfree.training import load_checkpoint, methods, read_config, train


@pytest.fixture
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("mulfree.training.methods.toy")
    module.__dict__.update(Config=ToyConfig, Task=ToyTask)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(methods, "METHODS", (*methods.METHODS, "toy"))


@pytest.mark.usefixtures("_toy")
def test_a_toy_method_is_configured_run_and_resumed(tmp_path: Path) -> None:
    config = read_config(["--method.name=toy", "--method.factor=3"])
    assert config.method == ToyConfig(factor=3.0)
    toy = {"name": "toy", "factor": 3.0}
    result = train(make_config(tmp_path, method=toy, trainer={"epochs": 1}))
    # The method reports no accuracy; that of the test images is reported all the same.
    assert "train_accuracy" not in result.history[0]
    assert result.metrics["method"] == "toy"
    assert 0 <= result.metrics["test_accuracy"] <= 1
    assert (tmp_path / "curves.png").exists()
    assert load_checkpoint(tmp_path / "last.ckpt").config.method == ToyConfig(factor=3.0)


@pytest.mark.usefixtures("_toy")
def test_options_are_those_of_the_method() -> None:
    with pytest.raises(ConfigError, match=r"unknown option 'method.label_smoothing'"):
        read_config(["--method.name=toy", "--method.label_smoothing=0.1"])
    with pytest.raises(ConfigError, match=r"unknown option 'method.factor'"):
        read_config(["--method.factor=2"])
