"""Quantised networks of dynamic resolution: entry points and what they share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mulfree import models, runtime
from mulfree.models.dynamic_resolution import DynamicResolutionNetwork, resized
from mulfree.nodes.fields import tensors
from mulfree.quantization import Preprocessing, quantize, quantize_resolutions


@pytest.mark.parametrize("operator", ["conv2d", "adder2d"])
def test_entry_points_are_the_quantised_parts(operator: str) -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {"width": 0.125, "predictor_width": 1.0, "num_classes": 3}
    options |= {"resolutions": [8, 6], "network_options": {"blocks": [1, 1, 1]}}
    options["predictor_options"] = {"blocks": [1, 1, 1, 1]}
    model = models.create_model("dynamic_resolution", operator=operator, **options)
    assert isinstance(model, DynamicResolutionNetwork)
    images = torch.randn(16, 3, 8, 8)
    model(images)
    model.eval()
    preprocessing = Preprocessing(
        mean=(0.5,) * 3, std=(0.25,) * 3, resize=12, classes=("a", "b", "c")
    )
    graphs = quantize_resolutions(model, images, preprocessing=preprocessing, name="net")
    assert list(graphs) == ["predictor", "8", "6"]
    assert graphs["predictor"].classes == ("8", "6")
    assert [(g.name, g.input.resize) for g in graphs.values()] == [
        ("net predictor", 12),
        ("net 8", 12),
        ("net 6", 9),
    ]
    alone = quantize(model.extract(6), resized(images, 6), preprocessing=preprocessing)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 6, 6), np.uint8)
    assert np.array_equal(
        runtime.Session(graphs["6"]).run(pixels), runtime.Session(alone).run(pixels)
    )
    weights = [
        {
            node.name: tensors(node)["weight"]
            for node in graphs[name].nodes
            if "weight" in tensors(node)
        }
        for name in ("8", "6")
    ]
    same = [np.array_equal(weight, weights[1][name]) for name, weight in weights[0].items()]
    # Scales of adder layers are those of their inputs.
    assert all(same) == (operator == "conv2d")
    plain = quantize_resolutions(model, images)
    assert plain["8"].input.mean == (0.0,) * 3
    assert runtime.DynamicResolutionSession(plain).run(pixels).shape == (5, 3)
