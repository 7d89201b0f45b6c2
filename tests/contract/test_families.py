"""Contract of model families: every registered model, and a toy family of one file and one line."""

from __future__ import annotations

import copy
import importlib
import math
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mulfree import models, operators
from mulfree.errors import ConfigError, ShapeError
from mulfree.models import families, registry
from mulfree.models.early_exit import EarlyExitNetwork

TOY = """
from dataclasses import dataclass
from torch import nn
from mulfree.models.parts import check_images, logit_norm
from mulfree.models.registry import ModelOptions, register_model

@dataclass(frozen=True, kw_only=True)
class Config(ModelOptions):
    depth: int = 2

class ToyNet(nn.Module):
    def __init__(self, options):
        super().__init__()
        self.in_channels = options.in_channels
        self.body = nn.Sequential()
        channels, width = options.in_channels, options.scaled(64)
        for _ in range(options.depth + 1):
            self.body.append(nn.Conv2d(channels, width, 3, padding=1, bias=False))
            self.body.append(nn.BatchNorm2d(width))
            self.body.append(nn.ReLU())
            channels = width
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Conv2d(width, options.num_classes, 1)
        self.bn_fc = logit_norm(options.num_classes, options.norm_logits)

    def forward(self, images):
        check_images("ToyNet", images, self.in_channels, 1)
        return self.bn_fc(self.fc(self.pool(self.body(images)))).flatten(1)

@register_model
def toy_net(options: Config) -> nn.Module:
    return ToyNet(options)
"""

NAMES = [*models.list_models(), "toy_net"]
# The first model of each function: variants differ in the defaults of their options. Of residual
# networks only the shallowest of each kind of block: the others repeat them.
ONE_EACH = {registry._entry(name).build: name for name in reversed(models.list_models())}
DEEPER = {"resnet32", "resnet34", "resnet44", "resnet56", "resnet101", "resnet110"}
EVERY = pytest.mark.parametrize("name", [*sorted({*ONE_EACH.values()} - DEEPER), "toy_net"])
WITH = pytest.mark.parametrize("operator", operators.OPERATORS)


@pytest.fixture(autouse=True, scope="module")
def toy_family(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A family of one file and one line in the list."""
    folder = tmp_path_factory.mktemp("families")
    (folder / "toy.py").write_text(TOY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(families, "__path__", [*families.__path__, str(folder)])
        patch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
        patch.setattr(families, "FAMILIES", (*families.FAMILIES, "toy"))  # the line
        importlib.invalidate_caches()
        yield
    sys.modules.pop("mulfree.models.families.toy", None)


def tiny(name: str, operator: str = "conv2d", **options: Any) -> nn.Module:
    """A network of few channels, and few blocks where a family scales their number."""
    if issubclass(registry._entry(name).options, registry.ScalableOptions):
        options = {"depth": 0.1, **options}
    return models.create_model(name, operator=operator, width=1 / 16, **options)


def layers(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if operators.operator_of(module)]


def replaced(model: nn.Module) -> list[nn.Module]:
    """Layers of the operator: neither first nor last, nor such as always multiply."""
    config = models.config_of(model)
    options = registry.resolved_options(config.name, {})
    multiplying = options.multiplying(model)
    kept = {model.get_submodule(name) for name in multiplying}
    return [layer for layer in layers(model)[1:-1] if layer not in kept]


def logits_of_all(model: nn.Module, images: Tensor) -> Tensor:
    """Logits, summed over sub-nets or exits: every parameter has a part."""
    if isinstance(model, models.DepthDynamicNetwork):
        outputs = model.run_depths(images).values()
        return torch.stack([output.logits for output in outputs]).sum(0)
    if isinstance(model, EarlyExitNetwork):
        return torch.stack(list(model.all_logits(images).values())).sum(0)
    logits: Tensor = model(images)
    return logits


def weight_of(layer: nn.Module) -> Tensor:
    assert isinstance(layer.weight, Tensor)
    return layer.weight


@EVERY
@WITH
def test_forward_and_backward(name: str, operator: str) -> None:
    model = tiny(name, operator, num_classes=7, in_channels=2)
    images = torch.randn(3, 2, 16, 16, requires_grad=True)
    logits = logits_of_all(model, images)
    assert logits.shape == (3, 7)
    (logits * torch.randn(3, 7)).sum().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        if not parameter_name.endswith("bias"):
            assert parameter.grad.any(), parameter_name
    assert images.grad is not None
    assert images.grad.isfinite().all()


@EVERY
@WITH
def test_all_but_first_and_last_layer_are_of_the_operator(name: str, operator: str) -> None:
    model = tiny(name, operator)
    first, *_, last = layers(model)
    assert type(first) is type(last) is nn.Conv2d
    assert replaced(model)
    expected = operators.get_operator(operator).conv
    assert all(type(layer) is expected for layer in replaced(model))
    # Of exits the last one.
    assert last.out_channels == 10


@EVERY
def test_width_and_operator_change_no_name_and_no_shape_of_the_full_network(name: str) -> None:
    with torch.device("meta"):
        full = models.create_model(name, norm_logits=True).state_dict()
        adder = models.create_model(name, operator="adder2d").state_dict()
        narrow = models.create_model(name, norm_logits=True, width=1 / 16).state_dict()
    assert {key: tensor.shape for key, tensor in adder.items()} == {
        key: tensor.shape for key, tensor in full.items()
    }
    assert narrow.keys() == full.keys()


@EVERY
@pytest.mark.parametrize("size", [(8, 8), (28, 28), (32, 32), (33, 41)])
def test_images_of_any_size(name: str, size: tuple[int, int]) -> None:
    assert tiny(name, in_channels=1)(torch.randn(2, 1, *size)).shape == (2, 10)


@EVERY
@WITH
def test_no_images_give_no_logits(name: str, operator: str) -> None:
    assert tiny(name, operator).eval()(torch.randn(0, 3, 16, 16)).shape == (0, 10)


@EVERY
@WITH
def test_memory_format_does_not_matter(name: str, operator: str) -> None:
    random = {"dropout", "stochastic_depth"} & models.model_options(name).keys()
    model = tiny(name, operator, **dict.fromkeys(random, 0.0)).double()
    images = torch.randn(8, 3, 32, 32, dtype=torch.float64)
    expected = model(images)
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.to(memory_format=torch.channels_last)
    actual = model(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(actual, expected)


@WITH
@pytest.mark.parametrize(
    "name",
    [
        "lenet5_bn",
        "vgg_small",
        "toy_net",
        *(
            pytest.param(name, marks=pytest.mark.compile)
            for name in ("resnet20", "resnet18", "tf_efficientnet_b0")
        ),
    ],
)
def test_is_one_graph(name: str, operator: str) -> None:
    model = tiny(name, operator).eval()
    images = torch.randn(2, 3, 32, 32)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images), model(images))
    exported = torch.export.export(model, (images,)).module()
    torch.testing.assert_close(exported(images), model(images))


@EVERY
@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (3, 8, 8), (2, 3, 0, 8), (2, 3, 8, 0)])
def test_refuses_what_is_no_batch_of_images(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"`images` must have shape \[N, 3, H, W\] with H and W"):
        tiny(name)(torch.randn(shape))


@EVERY
def test_logits_are_normalised_as_published_unless_told_otherwise(name: str) -> None:
    normalised, plain = (tiny(name, operator) for operator in ("adder2d", "conv2d"))
    # Of a model that weighs several logits of a network, that network's.
    normalised, plain = (getattr(model, "network", model) for model in (normalised, plain))
    mean = normalised(torch.randn(8, 3, 16, 16)).mean(0)
    torch.testing.assert_close(mean, torch.zeros(10), atol=1e-4, rtol=0)
    assert plain(torch.randn(8, 3, 16, 16)).mean(0).abs().max() > 1e-3
    assert "BatchNorm2d(10" in repr(tiny(name, "conv2d", norm_logits=True))
    assert "BatchNorm2d(10" not in repr(tiny(name, "adder2d", norm_logits=False))


@EVERY
def test_initialisation(name: str) -> None:
    model = models.create_model(name, operator="adder2d", width=0.25)
    weights = torch.cat([weight_of(layer).detach().flatten() for layer in replaced(model)])
    bound = 5 / math.sqrt(len(weights))
    assert abs(float(weights.mean())) < bound
    assert abs(float(weights.std()) - 1) < bound
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()


@pytest.mark.parametrize("name", ["lenet5_bn", "resnet20", "vgg_small", "mobilenet_v1", "toy_net"])
def test_the_gradient_rule_reaches_the_layers_and_changes_no_initial_weight(name: str) -> None:
    torch.manual_seed(3)
    plain = tiny(name, "adder2d")
    torch.manual_seed(3)
    sign = tiny(name, "adder2d", gradient="sign")
    assert {layer.gradient for layer in replaced(sign)} == {"sign"}
    for key, tensor in plain.state_dict().items():
        torch.testing.assert_close(sign.state_dict()[key], tensor, atol=0, rtol=0)


@EVERY
def test_adder_weights_are_marked_for_the_adaptive_local_learning_rate(name: str) -> None:
    model = tiny(name, "adder2d")
    for copied in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        marked = [
            key
            for key, parameter in copied.named_parameters()
            if operators.uses_adaptive_local_lr(parameter)
        ]
        assert len(marked) == len(replaced(model))


@pytest.mark.parametrize("name", NAMES)
def test_defaults_of_every_variant(name: str) -> None:
    with torch.device("meta"):
        model = models.create_model(name)
    options = models.model_options(name)
    # By default it depends on the operator.
    options["norm_logits"], options["keep"] = False, list(options["keep"])
    assert models.config_of(model).arguments == {"operator": "conv2d", **options}
    assert models.input_size(model) == (3, models.image_size(name), models.image_size(name))


def test_every_model_is_listed_once() -> None:
    assert models.list_models() == sorted(set(NAMES))


@pytest.mark.parametrize("family", [*families.FAMILIES, "toy"])
def test_options_are_a_frozen_config(family: str) -> None:
    module = importlib.import_module(f"{families.__name__}.{family}")
    options = module.Config(num_classes=4)
    assert isinstance(options, models.ModelOptions)
    with pytest.raises(FrozenInstanceError):
        options.num_classes = 5  # type: ignore[misc]


@EVERY
def test_the_model_config_holds_every_option_and_builds_the_same_network(name: str) -> None:
    model = tiny(name, "adder2d", num_classes=4, in_channels=2)
    config = models.config_of(model)
    assert config.arguments.keys() == models.model_options(name).keys() | {"operator"}
    again = models.create_model(config.name, **config.arguments)
    assert str(again) == str(model)
    for same in (again, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert models.config_of(same) == config


@EVERY
def test_options_of_a_wrong_type_or_name_are_refused(name: str) -> None:
    options = registry._entry(name).options
    for option in fields(options):
        with pytest.raises(ConfigError, match=rf"`{option.name}` must be of type .*, got Ellipsis"):
            models.create_model(name, **{option.name: ...})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"`options` must be one of .*gradient, .* got 'no_such'"):
        models.create_model(name, no_such=1)


@WITH
@EVERY
def test_weights_are_read_from_the_file_alone(name: str, operator: str, tmp_path: Path) -> None:
    model = tiny(name, operator, num_classes=4, in_channels=1)
    images = torch.randn(3, 1, 8, 8)
    model(images)
    path = tmp_path / "model.safetensors"
    models.save_weights(model, path)
    loaded = models.load_model(path)
    assert not loaded.training
    torch.testing.assert_close(loaded(images), model.eval()(images), atol=0, rtol=0)
    assert models.config_of(loaded) == models.config_of(model)


def test_families_are_imported_only_when_asked_for() -> None:
    module = "mulfree.models.families.vgg"
    code = f"import sys; from mulfree import models; print({module!r} in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"
    with pytest.raises(ConfigError, match="did you mean 'resnet20'"):
        models.create_model("resnet_20")
