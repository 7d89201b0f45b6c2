"""Published sizes of the registered models."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from mulfree import cost, models, operators


def cifar_parameters(blocks: int) -> int:
    """Weights and normalisations layer by layer, by hand, for `blocks` in each stage."""
    layers = 2 * blocks - 1
    stem, classifier = 27 * 16 + 2 * 16, 64 * 10 + 10
    first = 2 * blocks * (9 * 16 * 16 + 2 * 16)
    second = 9 * 16 * 32 + 2 * 32 + layers * (9 * 32 * 32 + 2 * 32)
    third = 9 * 32 * 64 + 2 * 64 + layers * (9 * 64 * 64 + 2 * 64)
    shortcuts = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    return stem + first + second + third + shortcuts + classifier


# ResNet-18, 34, 50 and 101: `num_params` in the documentation of torchvision.
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
    "resnet101": 44_549_160,
    "vgg_small": 4_660_106,
    # `num_params` in the documentation of torchvision, and the same of EfficientNet-PyTorch.
    "efficientnet_b0": 5_288_548,
    "efficientnet_b1": 7_794_184,
    "efficientnet_b2": 9_109_994,
    "efficientnet_b3": 12_233_232,
    "efficientnet_b4": 19_341_616,
    "efficientnet_b5": 30_389_784,
    "efficientnet_b6": 43_040_704,
    "efficientnet_b7": 66_347_960,
    "mobilenet_v2": 3_504_872,
    # Parameters in the published files; Lite3, Lite4 and MobileNetV1 in timm.
    "efficientnet_lite0": 4_652_008,
    "efficientnet_lite1": 5_416_680,
    "efficientnet_lite2": 6_092_072,
    "efficientnet_lite3": 8_197_096,
    "efficientnet_lite4": 13_006_568,
    "mobilenet_v1": 4_231_976,
}
# Multiply-adds in G. EfficientNet: Table 2 of arXiv 1905.11946, within 5 %; the others: Table 8 of
# arXiv 1704.04861 and Table 4 of arXiv 1801.04381, within 1 %.
MULTIPLY_ADDS = {
    "efficientnet_b0": 0.39,
    "efficientnet_b1": 0.70,
    "efficientnet_b2": 1.0,
    "efficientnet_b3": 1.8,
    "efficientnet_b4": 4.2,
    "efficientnet_b5": 9.9,
    "efficientnet_b6": 19,
    "efficientnet_b7": 37,
    "mobilenet_v1": 0.569,
    "mobilenet_v2": 0.300,
}

# Pairs of input and weight of one image. ResNet-32: 69.12 M in the CIFAR table of arXiv 1912.13200;
# the others have 6 layers more or less for every block of a stage, of 9*16*16*32*32 pairs each.
# ResNet-18, 34, 50 and 101: 1.814, 3.664, 4.089 and 7.801 G in the documentation of torchvision;
# the last has 17 blocks of (2*1024*256 + 9*256*256)*14*14 more.
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
    "resnet101": 4_089_184_256 + 17 * (2 * 1024 * 256 + 9 * 256 * 256) * 14 * 14,
    "vgg_small": 607_600_640,
}


def test_no_model_is_missing() -> None:
    # Others are made of these.
    around = {"depth_dynamic", "dynamic_resolution", "early_exit", *models.list_models("ddnn_*")}
    names = {name.removeprefix("tf_") for name in models.list_models()}
    assert names - around == set(PARAMETERS)


@pytest.mark.parametrize("name", TAPS)
def test_parameters_and_taps(name: str) -> None:
    classes = 1000 if models.image_size(name) == 224 else 10
    channels = 1 if models.image_size(name) == 28 else 3
    taps: list[int] = []

    def count(layer: nn.Module, _: object, output: Tensor) -> None:
        taps.append(output.numel() * math.prod(layer.get_parameter("weight").shape[1:]))

    with torch.device("meta"):
        model = models.create_model(name, num_classes=classes, in_channels=channels).eval()
        for layer in model.modules():
            if operators.operator_of(layer):
                layer.register_forward_hook(count)
        model(torch.zeros(1, channels, models.image_size(name), models.image_size(name)))
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]
    assert sum(taps) == TAPS[name]


@pytest.mark.parametrize("name", [name for name in PARAMETERS if name not in TAPS])
def test_parameters_and_multiply_adds_of_mobile_networks(name: str) -> None:
    side = models.image_size(name)
    with torch.device("meta"):
        model = models.create_model(name, num_classes=1000)
    profile = cost.count(model, (3, side, side))
    assert profile.total.params == PARAMETERS[name]
    published = MULTIPLY_ADDS.get(name)
    if published is not None:
        tolerance = 0.05 if "efficientnet" in name else 0.01
        assert sum(layer.accumulations for layer in profile.layers) / 1e9 == pytest.approx(
            published, rel=tolerance
        )
