"""Writes the golden files: results of one commit that every later one has to give again.

    PYTHONPATH=src:. python tests/golden/make.py FOLDER

They are made at the commit that GOLDEN in test_golden.py names, in a worktree of it, and never anew
to make a test pass. Every graph has an artifact, an ONNX file, pixels and logits; every family of
networks, with each operator, weights, images and logits; a run is there after its first epoch and
after its second.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from tests.export.graphs import network, of_operation  # type: ignore[import-not-found]

from mulfree import export, models, quantization, runtime, training
from mulfree.nodes import NODES
from mulfree.training.run import callbacks

# Side of the images, and width.
NETWORKS = {
    "lenet5_bn": (28, 0.25),
    "vgg_small": (32, 1 / 32),
    "resnet20": (32, 1 / 8),
    "resnet18": (48, 1 / 32),
    "resnet50": (48, 1 / 64),
}
OPERATORS = ("adder2d", "conv2d")
RUN: dict[str, Any] = {
    "data": {"name": "synthetic", "classes": 3, "image_size": 8, "limit": 64, "batch_size": 16},
    "model": {"name": "lenet5_bn", "operator": "adder2d", "options": {"width": 0.25}},
    "schedule": {"name": "cosine"},
    "trainer": {
        "epochs": 2,
        "threads": 1,
        "accelerator": "cpu",
        "tensorboard": False,
        "progress": "none",
    },
}


def make_graphs(folder: Path) -> None:
    """Artifact, ONNX file, pixels and logits of a graph of every node and of two networks."""
    operations = sorted(set(NODES) - {"linear"})
    graphs = {
        name: of_operation(name, np.random.default_rng(number))
        for number, name in enumerate(operations)
    }
    graphs["network"] = network(np.random.default_rng(100))
    arrays: dict[str, Any] = {}
    for name, graph in graphs.items():
        shape = (3, *graph.input_value.shape)
        pixels = np.random.default_rng(7).integers(0, 256, shape, dtype=np.uint8)
        runtime.save(graph, folder / f"{name}.mulfree")
        export.to_onnx(graph, folder / f"{name}.onnx")
        arrays[f"{name}.pixels"] = pixels
        arrays[f"{name}.logits"] = runtime.Session(graph, backend="reference").run(pixels)
    np.savez_compressed(folder / "graphs.npz", **arrays)


def make_networks(folder: Path) -> None:
    """Weights, images and logits of every family with each operator, and its integers' logits."""
    arrays: dict[str, Any] = {}
    for name, (side, width) in NETWORKS.items():
        for operator in OPERATORS:
            torch.manual_seed(0)
            model = models.create_model(name, operator=operator, width=width).eval()
            for layer in model.modules():
                if isinstance(layer, torch.nn.BatchNorm2d):
                    torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
                    torch.nn.init.normal_(layer.bias)
            images = torch.randn(2, 3, side, side)
            with torch.no_grad():
                for layer in model.modules():
                    if isinstance(layer, torch.nn.BatchNorm2d):
                        layer.momentum = None
                model.train()(images)
                model.eval()
                logits = model(images)
            graph = quantization.quantize(model, [images], 8)
            key = f"{name}.{operator}"
            arrays[f"{key}.images"] = images.numpy()
            arrays[f"{key}.logits"] = logits.numpy()
            arrays[f"{key}.integers"] = runtime.Session(graph).run(images.numpy())
            models.save_weights(model, folder / f"{key}.safetensors")
            runtime.save(graph, folder / f"{key}.mulfree")
    np.savez_compressed(folder / "networks.npz", **arrays)


def make_run(folder: Path) -> None:
    """The checkpoint after the first of two epochs, and the weights after the second."""
    directory = folder / "run"
    values: dict[str, Any] = {**RUN, "trainer": {**RUN["trainer"], "output": str(directory)}}
    written = []

    class Keeping(callbacks.CheckpointIO):
        def save_checkpoint(self, checkpoint: Any, path: Any, *more: Any, **options: Any) -> None:
            super().save_checkpoint(checkpoint, path, *more, **options)
            written.append(Path(path).read_bytes())

    with mock.patch.object(callbacks, "CheckpointIO", Keeping):
        training.train(training.TrainConfig.from_dict(values))
    for name in ("best.ckpt", "curves.png", "metrics.csv", "metrics.json"):
        (directory / name).unlink()
    (directory / "last.ckpt").write_bytes(written[0])


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    make_graphs(target)
    make_networks(target)
    make_run(target)
