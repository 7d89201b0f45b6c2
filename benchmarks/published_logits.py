"""Logits of published networks: the original code against `load_published`, same random weights.

In an environment of its own, since mulfree neither needs nor installs these packages:

    pip install torchvision timm efficientnet-pytorch && python benchmarks/published_logits.py
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import subprocess
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import nn

from mulfree import models

_PACKAGES = ("torch", "torchvision", "timm", "efficientnet-pytorch")
_LARGEST = 1e-4
# A library ends with its last reference.
_LIBRARIES: list[torch.library.Library] = []


def main() -> None:
    """Print a table of the largest differences, and fail if one is too large."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=128, help="side of the images")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    print(f"{versions}; commit {commit}; {platform.machine()}; seed {arguments.seed}")
    print(f"two random images of {arguments.side} x {arguments.side} pixels, float32")
    print()
    print("| code | network | parameters | largest logit | largest difference |")
    print("|---|---|---|---|---|")
    worst = 0.0
    for code, name, build in _networks():
        torch.manual_seed(arguments.seed)
        worst = max(worst, _compare(code, name, build(), arguments.side))
    print()
    print(f"largest difference of all: {worst:.1e}; required: {_LARGEST:.0e}")
    if worst > _LARGEST:
        raise SystemExit(1)


def _networks() -> Iterator[tuple[str, str, Callable[[], nn.Module]]]:
    """Code, name in mulfree and constructor of every network."""
    _declare_torchvision_operators()
    import timm
    import torchvision
    from efficientnet_pytorch import EfficientNet

    for number in range(8):
        name = f"efficientnet_b{number}"
        yield "torchvision", name, torchvision.models.get_model_builder(name)
    yield "torchvision", "mobilenet_v2", torchvision.models.mobilenet_v2
    for prefix in ("", "tf_"):
        for suffix in [f"b{number}" for number in range(8)] + [f"lite{n}" for n in range(5)]:
            name = f"{prefix}efficientnet_{suffix}"
            yield "timm", name, partial(timm.create_model, name)
    yield "timm", "mobilenet_v1", partial(timm.create_model, "mobilenetv1_100")
    yield "timm", "mobilenet_v2", partial(timm.create_model, "mobilenetv2_100")
    for number in range(8):
        theirs = f"efficientnet-b{number}"
        yield (
            "EfficientNet-PyTorch",
            f"tf_efficientnet_b{number}",
            partial(EfficientNet.from_name, theirs, image_size=None),
        )


def _declare_torchvision_operators() -> None:
    """Declare the operators that torchvision's import needs where its extension cannot be loaded.

    Its usual build needs a torch for CUDA. The networks here use none of its operators.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _LIBRARIES.append(library)


def _compare(code: str, name: str, theirs: nn.Module, side: int) -> float:
    """Print the row of a network; return the largest difference of its logits."""
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    theirs.eval()
    images = torch.randn(2, 3, side, side)
    with torch.inference_mode():
        # In the statistics of these images: logits of deep random networks vanish or explode.
        _calibrate(theirs, images)
        ours = models.load_published(theirs.state_dict(), name)
        expected, actual = theirs(images), ours(images)
    difference = float((expected - actual).abs().max())
    count = sum(parameter.numel() for parameter in ours.parameters())
    largest = float(expected.abs().max())
    print(f"| {code} | `{name}` | {count:,} | {largest:.2f} | {difference:.1e} |", flush=True)
    return difference


def _calibrate(network: nn.Module, images: torch.Tensor) -> None:
    """Set the running statistics of every batch norm to those of the images."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    network(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval()
        norm.momentum = momentum


if __name__ == "__main__":
    main()
