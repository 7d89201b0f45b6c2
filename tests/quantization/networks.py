"""Small networks with statistics that were measured, and what is expected of their integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from mulfree import models


def warm(
    model: nn.Module, shape: tuple[int, int, int], *, chance: bool = True, size: int = 8
) -> list[Tensor]:
    """Images, on which the normalisations of `model` have measured their statistics.

    Args:
        model: Any network.
        shape: C, H, W of the images.
        chance: Give the normalisations weights and biases of chance.
        size: Images in each of four batches.
    """
    generator = torch.Generator().manual_seed(1)
    images = [torch.randn(size, *shape, generator=generator) for _ in range(4)]
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
        if chance:
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.2)
    model.train()
    with torch.no_grad():
        for batch in images:
            model(batch)
    model.eval()
    return images


def named(name: str, operator: str, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return models.create_model(name, operator=operator, **options)


def outputs(model: nn.Module, images: Tensor) -> NDArray[np.float32]:
    with torch.no_grad():
        logits: NDArray[np.float32] = model(images).numpy()
    return logits


class Excitation(nn.Module):
    """Squeeze-and-excitation: a gate for each channel, made of the means of the map."""

    def __init__(self, channels: int, squeezed: int, spelling: str) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)
        self.spelling = spelling
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.act, self.gate = nn.SiLU(inplace=True), nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        if self.spelling == "modules":
            gate: Tensor = self.gate(self.expand(self.act(self.reduce(self.pool(x)))))
            return x * gate
        if self.spelling == "mean":
            y = functional.silu(self.reduce(x.mean((2, 3), keepdim=True)))
            return torch.sigmoid(self.expand(y)) * x
        y = self.reduce(functional.adaptive_avg_pool2d(x, 1))
        y = self.expand(functional.silu(y, inplace=True)).sigmoid()
        return x.mul_(y.view(len(x), x.shape[1], 1, 1).expand_as(x))


class StochasticDepth(nn.Module):
    """Identity in evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        kept = torch.empty(len(x), 1, 1, 1).bernoulli_(0.8)
        return x * kept / 0.8


class InvertedBottleneck(nn.Module):
    """Expansion, depthwise layer, squeeze-and-excitation, projection, and the input added.

    `conv` is the class of the first, second and last.
    """

    def __init__(self, conv: Any, channels: int, out: int, kernel: int, spelling: str) -> None:
        super().__init__()
        wide = 4 * channels

        def normalised(*sizes: int, **options: Any) -> list[nn.Module]:
            return [conv(*sizes, bias=False, **options), nn.BatchNorm2d(sizes[1])]

        self.body = nn.Sequential(
            *normalised(channels, wide, 1),
            nn.SiLU(inplace=True),
            *normalised(wide, wide, kernel, padding=kernel // 2, groups=wide),
            nn.SiLU(inplace=True),
            Excitation(wide, channels // 2, spelling),
            *normalised(wide, out, 1),
            StochasticDepth(),
        )
        self.adds = channels == out

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return y + x if self.adds else y


def efficient(conv: Any = nn.Conv2d, *, classes: int = 5) -> nn.Module:
    """A stem, three inverted bottlenecks with each spelling of the gate, and a head."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.SiLU()),
        InvertedBottleneck(conv, 8, 8, 3, "modules"),
        InvertedBottleneck(conv, 8, 12, 5, "mean"),
        InvertedBottleneck(conv, 12, 12, 3, "functions"),
        *(nn.Conv2d(12, 24, 1, bias=False), nn.BatchNorm2d(24), nn.SiLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(24, classes)),
    )
