from __future__ import annotations

from torch import nn

from mulfree import models


def test_the_maximum_comes_before_the_normalisation_in_every_second_layer() -> None:
    model = models.create_model("vgg_small")
    kinds = [type(module) for module in model.modules() if not list(module.children())]
    plain = [nn.Conv2d, nn.Identity, nn.BatchNorm2d, nn.ReLU]
    pooled = [nn.Conv2d, nn.MaxPool2d, nn.BatchNorm2d, nn.ReLU]
    assert kinds == [*(plain + pooled) * 3, nn.AdaptiveAvgPool2d, nn.Conv2d, nn.Identity]
