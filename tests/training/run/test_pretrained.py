from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.runs import assert_same, checkpoints_of, make_config
from torch import nn

from mulfree import data, models
from mulfree.errors import ArtifactError, ConfigError
from mulfree.training import NetworkConfig, load_checkpoint, load_model, train
from mulfree.training.run.network import build_method
from mulfree.training.run.pretrained import load_pretrained


def lenet(operator: str = "adder2d", **options: Any) -> nn.Module:
    return models.create_model("lenet5_bn", operator=operator, width=0.25, **options)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of five classes whose running statistics are not the initial ones."""
    torch.manual_seed(1)
    model = lenet(num_classes=5)
    model(torch.randn(8, 3, 28, 28))
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    models.save_weights(model, path)
    return path


def test_equal_classes_load_everything(weights: Path) -> None:
    model = lenet(num_classes=5)
    load_pretrained(model, str(weights))
    assert_same(model.state_dict(), models.load_model(weights).state_dict())


def test_other_classes_get_a_new_head(weights: Path) -> None:
    model = lenet(num_classes=3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    load_pretrained(model, str(weights))
    loaded = models.load_model(weights).state_dict()
    for name, tensor in model.state_dict().items():
        if name == "fc.weight":
            # The default of PyTorch: uniform up to the root of 1 / 21 inputs.
            assert not tensor.equal(before[name])
            assert 0.15 < tensor.abs().max() <= 21**-0.5
        else:
            new = name.startswith("bn_fc.")
            assert tensor.equal(before[name] if new else loaded[name]), name


def test_published_weights(tmp_path: Path) -> None:
    published = models.create_model("resnet20", num_classes=10, width=0.25)
    torch.save(published.state_dict(), tmp_path / "resnet20.pth")
    model = models.create_model("resnet20", num_classes=4, width=0.25)
    load_pretrained(model, str(tmp_path / "resnet20.pth"))
    assert model.get_parameter("conv1.weight").equal(published.get_parameter("conv1.weight"))
    assert model.get_parameter("fc.weight").shape[0] == 4


def test_excluded_layers_keep_their_initialisation(weights: Path) -> None:
    model = lenet("conv2d", num_classes=5, keep=(), norm_logits=True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    load_pretrained(model, str(weights), ["conv[234]"])
    loaded = models.load_model(weights).state_dict()
    assert model.get_parameter("conv2.weight").equal(before["conv2.weight"])
    assert model.get_parameter("conv1.weight").equal(loaded["conv1.weight"])
    assert model.get_parameter("bn2.weight").equal(loaded["bn2.weight"])


def test_a_grey_image_is_one_repeated_in_each_channel(tmp_path: Path) -> None:
    colour, grey = (lenet("conv2d", in_channels=channels).eval() for channels in (3, 1))
    models.save_weights(colour, tmp_path / "model.safetensors")
    load_pretrained(grey, str(tmp_path))
    image = torch.randn(2, 1, 28, 28)
    torch.testing.assert_close(grey(image), colour(image.expand(-1, 3, -1, -1)))


RESNET: dict[str, Any] = {"operator": "adder2d", "width": 0.125, "num_classes": 3}


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain network whose running statistics are not the initial ones."""
    torch.manual_seed(1)
    model = models.create_model("resnet20", **RESNET)
    model(torch.randn(4, 3, 8, 8))
    path = tmp_path_factory.mktemp("resnet") / "model.safetensors"
    models.save_weights(model, path)
    return path


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("early_exit", {}),
        ("depth_dynamic", {"network": "resnet20", "subnets": {"short": {"blocks": [1, 2, 1]}}}),
        ("dynamic_resolution", {"resolutions": [8, 4]}),
    ],
)
def test_a_model_starts_from_the_network_inside(
    name: str, options: dict[str, Any], resnet: Path
) -> None:
    model, plain = models.create_model(name, **RESNET, **options), models.load_model(resnet)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    load_pretrained(model, str(resnet))
    given, copies = plain.state_dict(), 0
    for key, tensor in model.state_dict().items():
        if not key.startswith("network."):
            assert tensor.equal(before[key]), key
            continue
        single = re.sub(r"\.branches\.[^.]+", "", key.removeprefix("network."))
        copies += ".branches." in key
        assert tensor.equal(given[single]), key
    assert (copies > 0) == (name != "early_exit")
    images = torch.randn(2, 3, 8, 8)
    inside = model
    if name == "dynamic_resolution":
        inside = model.extract(8)  # type: ignore[operator]
    with torch.no_grad():
        assert inside.eval()(images).equal(plain(images))


def test_other_classes_get_a_new_head_inside(resnet: Path) -> None:
    model = models.create_model("early_exit", **(RESNET | {"num_classes": 5}))
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    load_pretrained(model, str(resnet), ["network.layer3", "exits.exit1"])
    given = models.load_model(resnet).state_dict()
    for key, tensor in model.state_dict().items():
        if key == "network.fc.weight":
            assert not tensor.equal(before[key])
        elif key.startswith(("network.layer3.", "network.bn2.", "exits.")):
            assert tensor.equal(before[key]), key
        else:
            assert tensor.equal(given[key.removeprefix("network.")]), key


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"network": "resnet32"},
            "of the network early_exit of model.name, or of resnet32 inside it, got resnet20 in",
        ),
        ({"network_options": {"blocks": [1, 3, 3]}}, "no tensor but the network's, got 'layer1.1"),
        (
            {"network_options": {"blocks": [4, 3, 3]}},
            "have a tensor 'layer1.3.conv1.weight', got",
        ),
        ({"operator": "conv2d"}, "have the operator conv2d in layer layer1.0.conv1"),
    ],
)
def test_a_network_that_does_not_fit_inside(
    options: dict[str, Any], message: str, resnet: Path
) -> None:
    model = models.create_model("early_exit", **(RESNET | options))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ConfigError, match=f"^train: `model.pretrained.*{message}") as caught:
        load_pretrained(model, str(resnet))
    assert len(str(caught.value)) <= 400
    assert_same(model.state_dict(), before)


@pytest.mark.parametrize(
    ("model", "exclude", "message"),
    [
        (lenet("conv2d", num_classes=5), (), r"operator conv2d in layer conv2 \(or .*got adder2d"),
        (lenet(num_classes=5), ("conv9",), r"_exclude` must name .* got 'conv9'"),
        (lenet(embedding=2), (), r"a tensor 'embedding.0.weight', got none"),
        (lenet(in_channels=4), (), r"shape \[2, 4, 5, 5\] for 'conv1.weight', got \[2, 3, 5, 5\]"),
        (
            models.create_model("lenet5_bn", operator="adder2d", width=0.5),
            (),
            r"shape \[3, 3, 5, 5\] for 'conv1.weight', got \[2, 3, 5, 5\]",
        ),
        (
            models.create_model("resnet20", width=0.25),
            (),
            r"of the network resnet20 of model.name, got lenet5_bn",
        ),
    ],
)
def test_another_network_is_refused(
    model: nn.Module, exclude: tuple[str, ...], message: str, weights: Path
) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ConfigError, match=f"^train: `model.pretrained.*{message}") as caught:
        load_pretrained(model, str(weights), exclude)
    assert len(str(caught.value)) <= 400
    assert_same(model.state_dict(), before)


def test_surplus_tensors_are_refused(tmp_path: Path) -> None:
    models.save_weights(lenet(embedding=2), tmp_path / "model.safetensors")
    message = r"^train: `model.pretrained` must have no tensor but .*, got 'embedding.0.weight'"
    with pytest.raises(ConfigError, match=message):
        load_pretrained(lenet(num_classes=3), str(tmp_path))


def test_files_are_not_trusted(tmp_path: Path) -> None:
    """Published weights are read as tensors alone: a pickle that would run code is refused."""

    class Opens:
        def __reduce__(self) -> tuple[Any, ...]:
            return open, (str(tmp_path / "OWNED"), "w")

    torch.save(Opens(), tmp_path / "evil.pth")
    (tmp_path / "broken.safetensors").write_bytes(b"x" * 100)
    model = models.create_model("resnet20", width=0.25)
    for name in ("evil.pth", "broken.safetensors", "missing.pth", "missing.ckpt"):
        with pytest.raises(ArtifactError, match=re.escape(str(tmp_path / name))):
            load_pretrained(model, str(tmp_path / name))
    assert not (tmp_path / "OWNED").exists()


def test_exclusion_without_weights() -> None:
    with pytest.raises(ConfigError, match=r"^NetworkConfig: `pretrained_exclude` must be empty"):
        NetworkConfig(pretrained_exclude=("fc",))


def test_finetuning_needs_weights() -> None:
    config = make_config(method={"name": "finetune"})
    message = "^train: `model.pretrained` must be given for method finetune, got None$"
    with pytest.raises(ConfigError, match=message):
        build_method(config, data.load(config.data))


@pytest.mark.parametrize("method", ["kd", "pkkd", "finetune"])
def test_a_run_starts_from_them_and_resumes_without(
    method: str, weights: Path, tmp_path: Path
) -> None:
    start = tmp_path / "start.safetensors"
    start.write_bytes(weights.read_bytes())
    teacher = tmp_path / "teacher.safetensors"
    models.save_weights(lenet("conv2d", num_classes=3), teacher)
    options = {"teacher": str(teacher)} if method == "kd" else {}
    config = make_config(
        tmp_path / "run",
        method={"name": method, **options},
        model={"pretrained": str(start)},
        optimizer={"name": "rmsprop", "lr": 1e-30, "weight_decay": 0.0},
        schedule={"name": "exponential", "decay_epochs": 0.5},
        trainer={"epochs": 1, "checkpoint_every": 2},
    )
    half, *_ = checkpoints_of(config)
    trained, original = load_model(tmp_path / "run"), load_model(start)
    for name, parameter in trained.named_parameters():
        if not name.startswith(("fc", "bn_fc")):
            torch.testing.assert_close(parameter, original.get_parameter(name), msg=name)
    start.unlink()
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "last.ckpt").write_bytes(half)
    resumed = load_checkpoint(tmp_path / "half" / "last.ckpt")
    assert train(resumed.config, resumed).finished
    assert_same(load_model(tmp_path / "half").state_dict(), trained.state_dict())
