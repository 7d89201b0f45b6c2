"""Networks of inverted bottlenecks with squeeze-and-excitation, from float to every runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from tests.quantization.networks import efficient, outputs, warm
from torch import nn

from mulfree import quantization
from mulfree.export.onnx.integers import to_model
from mulfree.nn import Adder2d
from mulfree.quantization.calibration import find_ranges, make_qparams
from mulfree.quantization.fake_quantize import FakeQuantize
from mulfree.quantization.fused_graph import Hooks, execute
from mulfree.quantization.fusion import fuse
from mulfree.quantization.layout import QuantLayout
from mulfree.runtime import Graph, Session, artifact, reference

SHAPE = (3, 16, 16)


@pytest.mark.parametrize("conv", [nn.Conv2d, Adder2d])
@pytest.mark.parametrize(("bits", "error"), [(8, 0.06), (6, 0.12), (4, 0.3)])
def test_integers_agree_with_float_and_with_each_other(conv: Any, bits: int, error: float) -> None:
    net = efficient(conv)
    images = warm(net, SHAPE, size=16)
    graph = quantization.quantize(net, images, bits)
    ops = [node.op for node in graph.nodes]
    # An activation for stem and head, four in each block; a gate in each block.
    copies = sum(value.name.endswith(".copy") for value in graph.values)
    assert (ops.count("lut") - copies, ops.count("gate"), ops.count("mean")) == (14, 3, 4)
    assert ops[-1] == "linear"
    x = images[0].numpy()
    exact, logits = outputs(net, images[0]), reference.run(graph, x)
    assert np.linalg.norm(logits - exact) < error * np.linalg.norm(exact)
    np.testing.assert_array_equal(Session(graph, threads=2).run(x), logits)
    np.testing.assert_array_equal(ran_by_onnx(graph, x), logits)
    np.testing.assert_array_equal(Session(artifact.to_bytes(graph)).run(x[:2]), logits[:2])


def ran_by_onnx(graph: Graph, x: Any) -> Any:
    model = to_model(graph, pixels=False).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": x})[0]


@pytest.mark.parametrize("conv", [nn.Conv2d, Adder2d])
def test_fake_quantisation_computes_the_integers(conv: Any) -> None:
    """Up to the rounding of factors; its gradients reach every weight."""
    net = efficient(conv)
    images = warm(net, SHAPE)
    layout = QuantLayout(fused=fuse(net, SHAPE), bits=6)
    ranges = find_ranges(layout, net, images, "minmax")
    tensors = {name: q.tensors() for name, q in make_qparams(layout, ranges).items()}
    hooks = FakeQuantize(layout, lambda name, _: tensors[name])
    logits = execute(layout.fused, net, images[0], hooks)
    graph = quantization.quantize(net, images, 6, ranges=ranges)
    found = torch.from_numpy(reference.run(graph, images[0].numpy()))
    largest = float(logits.detach().abs().max())
    assert float((logits.detach() - found).abs().mean()) < 0.02 * largest
    logits.square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_evaluation_alone_is_quantised() -> None:
    """Dropout and stochastic depth do nothing; the mode of the network is kept."""
    net = efficient().train()
    fused = fuse(net, SHAPE)
    assert net.training
    net.eval()
    images = torch.randn(2, *SHAPE)
    with torch.no_grad():
        found = execute(fused, net, images, Hooks())
        torch.testing.assert_close(found, net(images), rtol=1e-4, atol=1e-5)
