from __future__ import annotations

import torch
from torch import nn

from mulfree import models


def test_the_maximum_comes_before_the_normalisation_in_every_second_layer() -> None:
    model = models.create_model("vgg_small")
    kinds = [type(module) for module in model.modules() if not list(module.children())]
    plain = [nn.Conv2d, nn.Identity, nn.BatchNorm2d, nn.ReLU]
    pooled = [nn.Conv2d, nn.MaxPool2d, nn.BatchNorm2d, nn.ReLU]
    assert kinds == [*(plain + pooled) * 3, nn.AdaptiveAvgPool2d, nn.Conv2d, nn.Identity]


def test_the_classifier_is_a_linear_layer_over_4x4_positions() -> None:
    model = models.create_model("vgg_small", width=1 / 16).eval()
    images = torch.randn(2, 3, 32, 32)
    features = model.get_submodule("features")(images)
    assert features.shape == (2, 32, 4, 4)
    weight, bias = model.get_parameter("fc.weight"), model.get_parameter("fc.bias")
    expected = features.flatten(1) @ weight.flatten(1).T + bias
    torch.testing.assert_close(model(images), expected)
