"""Every recipe loads, builds and takes two steps."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mulfree import data, models
from mulfree.training import TrainConfig, build_optimizer, read_config
from mulfree.training.losses.distillation import DistillationConfig
from mulfree.training.methods import graft, kd, supervised
from mulfree.training.optim.local_lr import AdaptiveLocalLR
from mulfree.training.optim.schedule import Schedule
from mulfree.training.run.checkpoint import WEIGHTS
from mulfree.training.run.network import build_method

ROOT = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(ROOT.glob("*/*.yaml"))
NATIVE = {"digits": 10, "fashion_mnist": 10, "cifar10": 10, "cifar100": 100}
FOLDERS = {
    "imagenet": 1000,
    "birdsnap": 500,
    "cars": 196,
    "flowers": 102,
    "aircraft": 100,
    "pets": 37,
    "food101": 101,
}
CLASSES = NATIVE | FOLDERS
# Named in the file of the recipe in place of the operator.
METHODS = ("kd", "pkkd", "finetune", "graft")


def load(path: Path) -> TrainConfig:
    return read_config(["--config", str(path)])


def test_there_are_recipes() -> None:
    assert {path.parent.name for path in RECIPES} == set(CLASSES)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_two_steps(path: Path, tmp_path: Path) -> None:
    config = load(path)
    name = "image_folder" if path.parent.name in FOLDERS else path.parent.name
    assert config.data.name == name
    kind = config.method.name if config.method.name in METHODS else config.model.operator
    assert path.stem.startswith(f"{config.model.name}_{kind}")
    # The same kind of network and data, only small.
    classes = min(CLASSES[path.parent.name], 12)
    synthetic = data.DataConfig(name="synthetic", classes=classes, image_size=16, limit=24)
    splits = data.load(synthetic)
    options: dict[str, Any] = {**config.model.options, "width": 0.125}
    if config.model.name.startswith("efficientnet"):
        options["depth"] = 0.25
    small = replace(config, model=replace(config.model, options=options))
    torch.manual_seed(0)
    if config.method.name == "kd":
        # That is given on the command line.
        assert isinstance(config.method, kd.Config)
        assert config.method.teacher is None
        conv = replace(
            small, model=replace(small.model, operator="conv2d"), method=supervised.Config()
        )
        models.save_weights(build_method(conv, splits).model, tmp_path / WEIGHTS)
        small = replace(small, method=replace(config.method, teacher=str(tmp_path)))
    if isinstance(config.method, graft.Config):
        assert config.method.teacher is None
        own: dict[str, Any] = {"width": 1.0, **config.model.options}
        wide = {**options, "width": 0.125 / own["width"]}
        teacher = models.create_model(config.model.name, num_classes=classes, **wide)
        models.save_weights(teacher, tmp_path / WEIGHTS)
        small = replace(small, method=replace(config.method, teacher=str(tmp_path)))
    if config.method.needs_pretrained:
        # That is given on the command line, too; of other classes.
        assert config.model.pretrained is None
        operator = config.model.operator
        network = models.create_model(
            config.model.name, operator=operator, num_classes=5, **options
        )
        models.save_weights(network, tmp_path / WEIGHTS)
        small = replace(small, model=replace(small.model, pretrained=str(tmp_path)))
    task = build_method(small, splits)
    optimizer = build_optimizer(task, config.optimizer)
    assert isinstance(optimizer, AdaptiveLocalLR) == (config.model.operator == "adder2d")
    schedule = Schedule(config=config.schedule, epochs=config.trainer.epochs, steps_per_epoch=2)
    loader = data.BatchLoader(splits.train, 12, train=True, transform=splits.train_transform)
    rates = [group["lr"] for group in optimizer.param_groups]
    before = {name: p.detach().clone() for name, p in task.named_parameters()}
    for step, batch in enumerate(loader):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * schedule(step)
        optimizer.zero_grad()
        loss = task(batch)["loss"]
        loss.backward()
        optimizer.step()
        assert loss.isfinite()
    for name, p in task.named_parameters():
        assert p.isfinite().all()
        assert torch.equal(p, before[name]) != p.requires_grad, name


def test_the_sizes_of_efficientnet() -> None:
    for path in ROOT.glob("imagenet/efficientnet_*.yaml"):
        config = load(path)
        name = config.model.name
        assert config.data.image_size == models.image_size(name)
        own = models.model_options(name)
        assert {key: own[key] for key in config.model.options} == config.model.options


@pytest.mark.parametrize("path", [p for p in RECIPES if "adder2d" in p.stem], ids=lambda p: p.stem)
def test_both_operators_have_equal_settings(path: Path) -> None:
    ours, other = load(path), load(path.with_name(path.name.replace("adder2d", "conv2d")))
    assert (ours.model.operator, other.model.operator) == ("adder2d", "conv2d")
    assert replace(ours, model=other.model) == other
    if path.stem.endswith(("_10ep", "_15ep")) or path.parent.name == "digits":
        # Results that are compared; the papers' convolutional nets do not normalise the logits.
        built = [build_network(config) for config in (ours, other)]
        assert built[0] | {"operator": "conv2d"} == built[1]


@pytest.mark.parametrize("path", [p for p in RECIPES if "kd" in p.stem], ids=lambda p: p.stem)
def test_distillation_differs_in_the_method_alone(path: Path) -> None:
    ours = load(path)
    name = re.sub(r"_(pkkd|kd)(_trained)?", "_adder2d", path.name)
    if (path.parent.name, name) == ("fashion_mnist", "resnet20_adder2d.yaml"):
        name = "resnet20_adder2d_10ep.yaml"
    other = load(path.with_name(name))
    assert isinstance(ours.method, DistillationConfig)
    assert replace(other, method=ours.method) == ours


def build_network(config: TrainConfig) -> dict[str, Any]:
    model = config.model
    options: dict[str, Any] = dict(model.options)
    network = models.create_model(model.name, operator=model.operator, **options)
    return dict(models.config_of(network).arguments)


def test_the_default_is_the_recipe_for_digits() -> None:
    assert load(ROOT / "digits" / "lenet5_bn_adder2d.yaml") == TrainConfig()


def test_the_table_of_results_is_what_the_runs_reported() -> None:
    row = re.compile(r"^\| `(\S+)` \| ([\d.]+) % \| (\d+) \| (\d+) \|$", re.MULTILINE)
    table = {name: values for name, *values in row.findall((ROOT / "README.md").read_text())}
    runs = {str(p.parent.relative_to(ROOT)): p for p in ROOT.glob("*/*/metrics.json")}
    assert runs
    assert table.keys() == runs.keys()
    for name, path in runs.items():
        metrics = json.loads(path.read_text())
        config = load(ROOT / f"{name}.yaml")
        assert metrics["epochs"] == config.trainer.epochs, name
        accuracy = f"{100 * metrics['test_accuracy']:.2f}"
        assert table[name] == [accuracy, str(metrics["epochs"]), str(metrics["seed"])], name
        for beside in ("log.txt", "metrics.csv", "curves.png"):
            assert path.with_name(beside).stat().st_size > 0, name
