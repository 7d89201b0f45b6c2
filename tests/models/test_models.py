"""What holds for every registered model, with every operator."""

from __future__ import annotations

import copy
import importlib
import math
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mulfree import models, operators
from mulfree.errors import ConfigError, ShapeError
from mulfree.models import families

EVERY = pytest.mark.parametrize("name", models.list_models())
WITH = pytest.mark.parametrize("operator", operators.OPERATORS)


def tiny(name: str, operator: str = "conv2d", **options: Any) -> nn.Module:
    return models.create_model(name, operator=operator, width=1 / 16, **options)


def layers(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if operators.operator_of(module)]


def weight_of(layer: nn.Module) -> Tensor:
    assert isinstance(layer.weight, Tensor)
    return layer.weight


@EVERY
@WITH
def test_forward_and_backward(name: str, operator: str) -> None:
    model = tiny(name, operator, num_classes=7, in_channels=2)
    images = torch.randn(3, 2, 16, 16, requires_grad=True)
    logits = model(images)
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
    first, *inner, last = layers(model)
    assert type(first) is type(last) is nn.Conv2d
    assert inner
    expected = operators.get_operator(operator).conv
    assert all(type(layer) is expected for layer in inner)
    assert last is model.fc


@EVERY
def test_width_and_operator_change_no_name_and_no_shape_of_the_full_network(name: str) -> None:
    with torch.device("meta"):
        full = models.create_model(name, norm_logits=True).state_dict()
        adder = models.create_model(name, operator="adder2d").state_dict()
    assert {key: tensor.shape for key, tensor in adder.items()} == {
        key: tensor.shape for key, tensor in full.items()
    }
    assert tiny(name, norm_logits=True).state_dict().keys() == full.keys()


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
    model = tiny(name, operator).double()
    images = torch.randn(8, 3, 32, 32, dtype=torch.float64)
    expected = model(images)
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.to(memory_format=torch.channels_last)
    actual = model(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(actual, expected)


@WITH
@pytest.mark.parametrize("name", ["lenet5_bn", "resnet20", "resnet18", "vgg_small"])
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
    normalised = tiny(name, "adder2d")(torch.randn(8, 3, 16, 16))
    torch.testing.assert_close(normalised.mean(0), torch.zeros(10), atol=1e-4, rtol=0)
    assert tiny(name, "conv2d")(torch.randn(8, 3, 16, 16)).mean(0).abs().max() > 1e-3
    assert "BatchNorm2d(10" in repr(tiny(name, "conv2d", norm_logits=True))
    assert "BatchNorm2d(10" not in repr(tiny(name, "adder2d", norm_logits=False))


@EVERY
def test_initialisation(name: str) -> None:
    model = models.create_model(name, operator="adder2d", width=0.25)
    weights = torch.cat([weight_of(layer).detach().flatten() for layer in layers(model)[1:-1]])
    bound = 5 / math.sqrt(len(weights))
    assert abs(float(weights.mean())) < bound
    assert abs(float(weights.std()) - 1) < bound
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()


@EVERY
def test_the_gradient_rule_reaches_the_layers_and_changes_no_initial_weight(name: str) -> None:
    torch.manual_seed(3)
    plain = tiny(name, "adder2d")
    torch.manual_seed(3)
    sign = tiny(name, "adder2d", gradient="sign")
    assert {layer.gradient for layer in layers(sign)[1:-1]} == {"sign"}
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
        assert len(marked) == len(layers(model)) - 2


@EVERY
@WITH
def test_state_dict_round_trip(name: str, operator: str) -> None:
    model, other = tiny(name, operator), tiny(name, operator)
    other.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(other(images), model(images), atol=0, rtol=0)


def cifar_parameters(blocks: int) -> int:
    """Weights and normalisations layer by layer, by hand, for `blocks` in each stage."""
    layers = 2 * blocks - 1
    stem, classifier = 27 * 16 + 2 * 16, 64 * 10 + 10
    first = 2 * blocks * (9 * 16 * 16 + 2 * 16)
    second = 9 * 16 * 32 + 2 * 32 + layers * (9 * 32 * 32 + 2 * 32)
    third = 9 * 32 * 64 + 2 * 64 + layers * (9 * 64 * 64 + 2 * 64)
    shortcuts = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    return stem + first + second + third + shortcuts + classifier


# ResNet-18, 34 and 50: `num_params` in the documentation of torchvision.
# VGG-small: 27*128 + 9*(128*128 + 128*256 + 256*256 + 256*512 + 512*512) weights,
# 2*2*(128 + 256 + 512) of the normalisations and 512*4*4*10 + 10 of the classifier.
# LeNet-5: 25*6 + 25*6*16 + 25*16*120 + 120*84 weights, 2*(6 + 16 + 120 + 84) and 84*10 + 10.
PARAMETERS = {
    "lenet5_bn": 61_932,
    "resnet20": cifar_parameters(3),
    "resnet32": cifar_parameters(5),
    "resnet44": cifar_parameters(7),
    "resnet56": cifar_parameters(9),
    "resnet110": cifar_parameters(18),
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "vgg_small": 4_660_106,
}

# Pairs of input and weight of one image. ResNet-32: 69.12 M in the CIFAR table of arXiv 1912.13200;
# the others have 6 layers more or less for every block of a stage, of 9*16*16*32*32 pairs each.
# ResNet-18, 34 and 50: 1.814, 3.664 and 4.089 G in the documentation of torchvision.
# VGG-small: 27*128*32*32 + 9*(128*128*32*32 + (128*256 + 256*256)*16*16
# + (256*512 + 512*512)*8*8) + 512*4*4*10.
# LeNet-5: 25*6*28*28 + 25*6*16*10*10 + 25*16*120 + 120*84 + 84*10.
BLOCK = 6 * 9 * 16 * 16 * 32 * 32
TAPS = {
    "lenet5_bn": 416_520,
    "resnet20": 69_124_736 - 2 * BLOCK,
    "resnet32": 69_124_736,
    "resnet44": 69_124_736 + 2 * BLOCK,
    "resnet56": 69_124_736 + 4 * BLOCK,
    "resnet110": 69_124_736 + 13 * BLOCK,
    "resnet18": 1_814_073_344,
    "resnet34": 3_663_761_408,
    "resnet50": 4_089_184_256,
    "vgg_small": 607_600_640,
}


@EVERY
def test_parameters_and_taps(name: str) -> None:
    classes = 1000 if models.image_size(name) == 224 else 10
    channels = 1 if models.image_size(name) == 28 else 3
    taps: list[int] = []

    def count(layer: nn.Module, _: object, output: Tensor) -> None:
        taps.append(output.numel() * math.prod(weight_of(layer).shape[1:]))

    with torch.device("meta"):
        model = models.create_model(name, num_classes=classes, in_channels=channels).eval()
        for layer in layers(model):
            layer.register_forward_hook(count)
        model(torch.zeros(1, channels, models.image_size(name), models.image_size(name)))
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]
    assert sum(taps) == TAPS[name]


def test_first_layer_of_resnet18_has_as_many_taps_as_in_the_papers_tables() -> None:
    # 0.1 G multiplications remain in an adder ResNet-18 (NeurIPS 2021, SLAC, Table 2).
    with torch.device("meta"):
        model = models.create_model("resnet18", num_classes=1000)
    assert 112 * 112 * model.get_parameter("conv1.weight").numel() == 118_013_952


# Logits of two images for one network of each family and operator, with parameters and images set
# by formula: they change only when a network changes.
STORED: dict[tuple[str, str], list[list[float]]] = {
    ("lenet5_bn", "conv2d"): [[1.64753, -0.048132, 1.525217], [3.181429, -1.896645, 3.453423]],
    ("lenet5_bn", "adder2d"): [[0.524432, 1.697661, -0.44179], [0.687067, 1.581977, -0.546478]],
    ("resnet18", "conv2d"): [[9.715913, -7.197453, 0.446679], [1.725631, -0.33508, -4.156565]],
    ("resnet18", "adder2d"): [[1.010887, 0.629662, 0.476544], [0.218202, 0.772681, 1.06135]],
    ("resnet50", "conv2d"): [[2.14937, -25.493767, 0.378409], [-2.040696, -19.469358, 3.790551]],
    ("resnet50", "adder2d"): [[-0.911916, 0.577393, -0.216737], [0.111304, -2.049962, -1.127123]],
    ("resnet20", "conv2d"): [[4.395835, -2.70224, 3.960691], [4.386817, -2.695208, 3.956457]],
    ("resnet20", "adder2d"): [[0.567435, 0.116752, -0.273034], [2.280212, 1.081745, -1.179482]],
    ("vgg_small", "conv2d"): [
        [-13.456605, -10.744746, -7.622789],
        [-12.990129, -10.267654, -7.166769],
    ],
    ("vgg_small", "adder2d"): [[0.868547, 1.216228, 1.172248], [1.137027, 2.079614, 1.827215]],
}


@pytest.mark.parametrize(("name", "operator"), STORED)
def test_stored_output(name: str, operator: str) -> None:
    model = tiny(name, operator, num_classes=3).double()
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            wave = torch.arange(parameter.numel(), dtype=torch.float64) * 0.7 + index
            parameter.copy_(wave.sin().reshape(parameter.shape))
    images = (torch.arange(4 * 3 * 32 * 32, dtype=torch.float64) * 1.3).cos()
    logits = model(images.reshape(4, 3, 32, 32))
    expected = torch.tensor(STORED[name, operator], dtype=torch.float64)
    torch.testing.assert_close(logits[:2], expected, rtol=1e-5, atol=1e-5)


TOY = """
from torch import nn
from mulfree.models.registry import ModelOptions, register_model

@register_model
def toy_net(options: ModelOptions) -> nn.Module:
    width = options.scaled(16)
    return nn.Sequential(
        nn.Conv2d(options.in_channels, width, 3),
        nn.Conv2d(width, width, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, options.num_classes),
    )
"""


def test_a_new_family_is_a_file_and_a_line_in_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "toy.py").write_text(TOY)
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(tmp_path)])
    monkeypatch.setattr(models.registry, "_ENTRIES", dict(models.registry._ENTRIES))
    importlib.invalidate_caches()
    try:
        monkeypatch.setattr(families, "FAMILIES", (*families.FAMILIES, "toy"))  # the line
        assert models.list_models("toy*") == ["toy_net"]
        model = tiny("toy_net", "adder2d", num_classes=5)
        assert [type(layer).__name__ for layer in layers(model)] == ["Conv2d", "Adder2d", "Linear"]
        assert model(torch.randn(2, 3, 8, 8)).shape == (2, 5)
    finally:
        sys.modules.pop("mulfree.models.families.toy", None)


def test_families_are_imported_only_when_asked_for() -> None:
    module = "mulfree.models.families.vgg"
    code = f"import sys; from mulfree import models; print({module!r} in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"
    with pytest.raises(ConfigError, match="did you mean 'resnet20'"):
        models.create_model("resnet_20")
