"""Published sizes of the registered models."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from mulfree import models, operators


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


def test_no_model_is_missing() -> None:
    assert models.list_models() == sorted(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
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
