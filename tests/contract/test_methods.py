"""Contract of every training method, and of a new one: a file and its name in the list."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contract.toys import method as toy
from tests.training.runs import assert_same, checkpoints_of, make_config
from torch import nn

from mulfree import models
from mulfree.errors import ConfigError
from mulfree.training import (
    TrainConfig,
    TrainingMethod,
    load_checkpoint,
    methods,
    read_config,
    train,
)
from mulfree.training.method import compile_method
from mulfree.training.methods import get_method
from mulfree.training.run.results import companion_file

NAMES = (*methods.METHODS, "toy")
MODELS: dict[str, dict[str, Any]] = {
    "dynamic_resolution": {
        "name": "dynamic_resolution",
        "options": {"network": "resnet20", "resolutions": [8, 4], "width": 0.125},
    },
    "embedded_kd": {
        "name": "depth_dynamic",
        "options": {
            "network": "resnet20",
            "subnets": {"short": {"blocks": [1, 1, 1]}},
            "width": 0.125,
        },
    },
    "early_exit": {
        "name": "early_exit",
        "options": {"width": 0.125, "network_options": {"blocks": [1, 1, 1]}},
    },
    "graft": {"name": "vgg_small", "operator": "conv2d", "options": {"width": 0.03125}},
}
"""Networks of methods that train a certain kind alone."""
OPTIONS: dict[str, dict[str, Any]] = {"dynamic_resolution": {"phase": "finetune"}}


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mulfree.training.methods.toy", toy)
    monkeypatch.setattr(methods, "METHODS", NAMES)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the weights of trained networks, for a method without a default."""
    folder = tmp_path_factory.mktemp("weights")
    for name in ("", *MODELS):
        models.save_weights(network(name), folder / f"{name or 'default'}.safetensors")
    wider = models.create_model("vgg_small", num_classes=3, width=0.0625)
    models.save_weights(wider, folder / "teacher.safetensors")
    return folder


def network(method: str = "") -> nn.Module:
    """The network that a method trains in these tests."""
    torch.manual_seed(0)
    model = MODELS.get(method, {"name": "lenet5_bn", "options": {"width": 0.25}})
    operator = model.get("operator", "adder2d")
    return models.create_model(model["name"], operator=operator, num_classes=3, **model["options"])


def options(name: str, weights: Path) -> dict[str, Any]:
    teachers = {"kd": "default", "graft": "teacher"}
    teacher = (
        {"teacher": str(weights / f"{teachers[name]}.safetensors")} if name in teachers else {}
    )
    return {"name": name} | OPTIONS.get(name, {}) | teacher


def start(name: str, weights: Path) -> dict[str, Any]:
    """Section of the network; with weights for a method that needs a trained one."""
    method = TrainConfig.from_dict({"method": options(name, weights)}).method
    file = weights / f"{name if name in MODELS else 'default'}.safetensors"
    pretrained = {"pretrained": str(file)} if method.needs_pretrained else {}
    return MODELS.get(name, {}) | pretrained


def make_method(name: str, weights: Path) -> TrainingMethod:
    config = TrainConfig.from_dict({"method": options(name, weights)}).method
    return get_method(name)(network(name), config).train()


@pytest.mark.parametrize("name", NAMES)
def test_losses_and_gradients(name: str, weights: Path) -> None:
    method = make_method(name, weights)
    batch = torch.randn(2, 3, 28, 28), torch.tensor([0, 2])
    values = method(batch)
    assert all(value.shape == () and value.isfinite() for value in values.values())
    values["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.model.parameters())
    tested = method.eval().test(method.model, batch)
    assert {"loss", method.task.metrics.BEST} <= tested.keys()
    assert all(value.shape == () and value.isfinite() for value in tested.values())


@pytest.mark.compile
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_a_step_is_one_graph(name: str, training: bool, weights: Path) -> None:
    torch._dynamo.reset()
    method, other = (make_method(name, weights).train(training) for _ in range(2))
    batch = torch.randn(2, 3, 28, 28), torch.tensor([0, 2])
    if not method.is_one_graph:
        with pytest.raises(ConfigError, match=f"compile` must be none for method {name} with"):
            compile_method(method)
        return
    compiled = torch.compile(method, fullgraph=True, dynamic=False, backend="eager")
    for _ in range(2):
        assert_same(compiled(batch), other(batch))
    assert_same(method.state_dict(), other.state_dict())
    torch._dynamo.reset()


@pytest.mark.parametrize("name", NAMES)
def test_options_are_written_and_read(name: str, weights: Path, tmp_path: Path) -> None:
    config = TrainConfig.from_dict({"method": options(name, weights)})
    assert type(config.method) is get_method(name).config_class
    assert config.method.name == name
    (tmp_path / "f.yaml").write_text(config.to_yaml())
    assert read_config(["--config", str(tmp_path / "f.yaml")]) == config


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_in_one_group(name: str, weights: Path) -> None:
    method = make_method(name, weights)
    grouped = [id(p) for group in method.param_groups() for p in group]
    assert sorted(grouped) == sorted(id(p) for p in method.parameters())
    for attribute, companion in method.companions().items():
        assert companion is getattr(method, attribute)
        assert models.config_of(companion).name == models.config_of(method.model).name


@pytest.mark.parametrize("name", NAMES)
def test_a_run_and_the_same_run_resumed(name: str, weights: Path, tmp_path: Path) -> None:
    model = start(name, weights)
    config = make_config(tmp_path / "run", method=options(name, weights), model=model)
    first, *_ = checkpoints_of(config)
    whole = load_checkpoint(tmp_path / "run" / "last.ckpt")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["method"] == name
    assert 0 <= metrics["test_accuracy"] <= 1
    files = ["curves.png", *map(companion_file, whole.companions)]
    assert all((tmp_path / "run" / file).exists() for file in files)
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "last.ckpt").write_bytes(first)
    half = load_checkpoint(tmp_path / "half" / "last.ckpt")
    assert half.config.method == config.method
    assert train(half.config, half).finished
    resumed = load_checkpoint(tmp_path / "half" / "last.ckpt")
    assert_same(resumed.content["state_dict"], whole.content["state_dict"])


def test_options_are_those_of_the_method() -> None:
    config = read_config(["--method.name=toy", "--method.factor=3"])
    assert config.method == toy.Config(factor=3.0)
    with pytest.raises(ConfigError, match=r"unknown option 'method.label_smoothing'"):
        read_config(["--method.name=toy", "--method.label_smoothing=0.1"])
    with pytest.raises(ConfigError, match=r"unknown option 'method.factor'"):
        read_config(["--method.factor=2"])


def test_an_unknown_method() -> None:
    with pytest.raises(ConfigError, match=r"`name` must be one of .*; did you mean 'supervised'?"):
        get_method("supervise")
