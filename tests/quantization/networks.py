"""Small networks with statistics that were measured, and what is expected of their integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

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
