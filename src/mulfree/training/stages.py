"""Stages of a network: its layers by the size of their maps, and its head."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mulfree import models, operators

HEAD = "head"
"""Name of the classifier with the batch norm of its logits."""


def head_of(model: nn.Module) -> set[str]:
    """Return the names of the head's tensors: the classifier's, and those registered after it.

    Args:
        model: A network of `create_model`, whose last layer is its classifier.
    """
    names = list(model.state_dict())
    start = next(n for n, name in enumerate(names) if name.startswith(f"{_classifier(model)}."))
    return set(names[start:])


def stages_of(model: nn.Module) -> dict[str, str]:
    """Return the stage of every parameter: "stage 1" at the input, ..., and `HEAD`.

    A stage holds the layers with maps of one size, from a forward pass on zeros at the image size
    of the design. A layer whose input is a single pixel, as in a squeeze-and-excitation, belongs
    to the stage of the previously called layer; a batch norm to the stage of the previously
    registered layer.

    Args:
        model: A network of `create_model`.
    """
    head, sizes = head_of(model), _map_sizes(model)
    numbers: dict[torch.Size, int] = {}
    stages: dict[str, int] = {}
    current = 1
    for name, (before, after) in sizes.items():
        if before.numel() > 1:
            current = numbers.setdefault(after, len(numbers) + 1)
        stages[name] = current
    current, found = 1, {}
    for name, _ in model.named_parameters():
        current = stages.get(name.rpartition(".")[0], current)
        found[name] = HEAD if name in head else f"stage {current}"
    return found


def reset_head(model: nn.Module) -> None:
    """Initialise a classifier that multiplies as PyTorch does, uniformly by its inputs.

    The published initialisation of some networks is uniform by the number of classes: fit for a
    thousand of them, but with ten the logits of pretrained features would have a deviation of ten.

    Args:
        model: A network of `create_model`.
    """
    classifier = model.get_submodule(_classifier(model))
    if isinstance(classifier, (nn.Conv2d, nn.Linear)):
        classifier.reset_parameters()


def _classifier(model: nn.Module) -> str:
    """Name of the last layer in order of registration."""
    return list(_layers(model))[-1]


def _layers(model: nn.Module) -> Mapping[str, nn.Module]:
    """Convolutions, linear layers, and layers of other operators, in order of registration."""
    modules = model.named_modules()
    return {name: module for name, module in modules if operators.operator_of(module) is not None}


@torch.no_grad()
def _map_sizes(model: nn.Module) -> dict[str, tuple[torch.Size, torch.Size]]:
    """Sizes H, W of the maps before and after each layer, in the order of their calls."""
    config = models.config_of(model)
    with torch.device("meta"):
        copy = models.create_model(config.name, **config.arguments).eval()
        side = models.image_size(config.name)
        zeros = torch.zeros(1, config.arguments["in_channels"], side, side)
    sizes: dict[str, tuple[torch.Size, torch.Size]] = {}

    def record(name: str, x: Tensor, y: Tensor) -> None:
        sizes[name] = (x.shape[2:], y.shape[2:])

    for name, layer in _layers(copy).items():
        layer.register_forward_hook(lambda _, args, y, name=name: record(name, args[0], y))
    copy(zeros)
    return sizes
