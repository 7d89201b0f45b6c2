"""Real weights on real photographs: in floating point, as integers, and as ONNX."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from tests.models.published.real import OTHERS, PACKAGES, PHOTOGRAPHS, photograph, weights
from torch import nn

from mulfree import export, models, runtime
from mulfree.images import read_image
from mulfree.quantization import Preprocessing, quantize

# In the lane that runs after the packages are installed.
pytestmark = pytest.mark.slow
NETWORKS = pytest.mark.parametrize("name", PACKAGES)


@cache
def network(name: str) -> nn.Module:
    return models.load_published(weights(name), name)


def spec_of(name: str) -> models.ImageSpec:
    spec = models.config_of(network(name)).images
    assert spec is not None
    return spec


def pictures(name: str, paths: list[Path]) -> NDArray[np.uint8]:
    spec = spec_of(name)
    return np.stack([read_image(path, spec.size, spec.resize) for path in paths])


def photographs() -> list[Path]:
    return [photograph(package, path) for package, path, _ in PHOTOGRAPHS.values()]


def assert_classes(logits: NDArray[np.float32]) -> None:
    for row, (subject, (_, _, right)) in zip(logits, PHOTOGRAPHS.items(), strict=True):
        assert int(row.argmax()) in right, subject


@cache
def quantized(name: str) -> runtime.Graph:
    spec = spec_of(name)
    paths = [photograph("scikit-image", f"skimage/data/{file}") for file in OTHERS]
    preprocessing = Preprocessing(
        mean=spec.mean, std=spec.std, resize=spec.resize, classes=spec.classes
    )
    pixels = torch.from_numpy(pictures(name, paths))
    return quantize(network(name), [pixels], 8, preprocessing=preprocessing, name=name)


@NETWORKS
def test_floating_point(name: str) -> None:
    spec = spec_of(name)
    mean, std = (torch.tensor(row)[:, None, None] for row in (spec.mean, spec.std))
    images = (torch.from_numpy(pictures(name, photographs())) / 255 - mean) / std
    with torch.no_grad():
        assert_classes(network(name)(images).numpy())


@NETWORKS
def test_integers_in_the_runtime_and_in_onnx_runtime(name: str, tmp_path: Path) -> None:
    graph, pixels = quantized(name), pictures(name, photographs())
    logits = runtime.Session(graph).run(pixels)
    assert_classes(logits)
    export.to_onnx(graph, tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: pixels})
    np.testing.assert_array_equal(found, logits)


def test_a_process_without_torch(tmp_path: Path) -> None:
    file = tmp_path / "net.mulfree"
    runtime.save(quantized("efficientnet_lite0"), file)
    code = (
        "import sys\n"
        "from mulfree.cli.main import main\n"
        "code = main(sys.argv[1:])\n"
        "assert 'torch' not in sys.modules\n"
        "sys.exit(code)"
    )
    words = ["run", str(file), *map(str, photographs()), "--json"]
    command = [sys.executable, "-c", code, *words]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    names = spec_of("efficientnet_lite0").classes
    for line, (_, _, right) in zip(lines, PHOTOGRAPHS.values(), strict=True):
        assert json.loads(line)["classes"][0]["class"] in {names[number] for number in right}
