"""Joint quantisation of the sub-nets of a network."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch

from mulfree import models, runtime
from mulfree.errors import ConfigError
from mulfree.quantization import quantize, quantize_depths
from mulfree.runtime import Graph, Session

IMAGES = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(3))


@functools.cache
def network(operator: str, batch_norm: Any = "private") -> models.DepthDynamicNetwork:
    torch.manual_seed(0)
    model = models.depth_dynamic(
        "resnet20",
        {"short": {"blocks": [1, 2, 1]}},
        operator=operator,
        width=0.25,
        batch_norm=batch_norm,
    )
    for _ in range(20):
        model.train().run_depths(IMAGES)
    return model.eval()


@functools.cache
def graphs(operator: str, bits: int = 8, batch_norm: Any = "private") -> dict[str, Graph]:
    return quantize_depths(network(operator, batch_norm), IMAGES, bits)


def weights(graph: Graph) -> dict[str, Any]:
    return {n.name: n.weight for n in graph.nodes if hasattr(n, "weight") and not n.ends}


@pytest.mark.parametrize("batch_norm", ["private", "shared"])
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("operator", ["conv2d", "adder2d"])
def test_shared_layers_have_equal_weights(operator: str, bits: int, batch_norm: str) -> None:
    found = graphs(operator, bits, batch_norm)
    assert list(found) == ["short", "resnet20"]
    short, full = (weights(graph) for graph in found.values())
    # Stem, four blocks of two layers, two shortcuts.
    assert len(short) == 11
    for name, weight in short.items():
        np.testing.assert_array_equal(weight, full[name], err_msg=name)


def test_common_first_blocks_are_equal_nodes() -> None:
    short, full = graphs("adder2d").values()
    # Stem, and two layers of the first block.
    for one, other in zip(short.nodes[:3], full.nodes[:3], strict=True):
        values = zip(vars(one).values(), vars(other).values(), strict=True)
        assert all(np.array_equal(a, b) for a, b in values), one.name
    assert short.values[:4] == full.values[:4]


@pytest.mark.parametrize("operator", ["conv2d", "adder2d"])
def test_one_file_of_all_depths(operator: str, tmp_path: Any) -> None:
    found = graphs(operator)
    runtime.save(found, tmp_path / "all")
    for name, graph in found.items():
        runtime.save(graph, tmp_path / name)
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sizes["all"] < sizes["short"] + sizes["resnet20"]
    images = (IMAGES[:4] * 255).to(torch.uint8).numpy()
    session = Session(tmp_path / "all", depth="short")
    for name, graph in found.items():
        session.depth = name
        expected = Session(tmp_path / name, backend="reference").run(images)
        np.testing.assert_array_equal(session.run(images), expected)
        assert graph.name == f"DepthDynamicNetwork {name}"


@pytest.mark.parametrize("operator", ["conv2d", "adder2d"])
def test_every_depth_computes_its_sub_net(operator: str) -> None:
    model = network(operator)
    for name, graph in graphs(operator).items():
        float_logits = model(IMAGES, depth=name).detach()
        logits = torch.from_numpy(Session(graph).run(IMAGES.numpy()))
        alone = torch.from_numpy(Session(quantize(model.extract(name), IMAGES)).run(IMAGES.numpy()))
        error, alone_error = (float((x - float_logits).square().mean()) for x in (logits, alone))
        # The common ranges are wider, so the steps are coarser.
        assert error < max(4 * alone_error, 0.02 * float(float_logits.var()))


def test_not_a_network_of_depths() -> None:
    with pytest.raises(ConfigError, match="`model` must be a depth-dynamic network, got a Linear"):
        quantize_depths(torch.nn.Linear(1, 1), IMAGES)  # type: ignore[arg-type]
