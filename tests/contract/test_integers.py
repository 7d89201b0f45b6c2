"""Quantisation finds operators and nodes by name: toys of each, with no source edited."""

from __future__ import annotations

import io
import re
import shutil
import tokenize
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.quantization.networks import named, outputs, warm
from torch import Tensor, nn

from mulfree import nodes, operators, quantization, runtime
from mulfree.errors import ConfigError
from mulfree.nodes.conv2d import Conv2d
from mulfree.nodes.sliding import SlidingLayer
from mulfree.operators import get_operator, integer_form, operator_of
from mulfree.quantization.fake_quantize import FakeQuantize
from mulfree.quantization.fused_ops import FusedLayer
from mulfree.quantization.fusion import fuse
from mulfree.quantization.layout import QuantLayout
from mulfree.runtime import reference

HERE = Path(__file__).parent
OPERATORS = (*operators.OPERATORS, "shift2d")


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder and a line for each toy: operator `shift2d`, node `shuffle`; a place for more."""
    monkeypatch.setattr(
        operators, "__path__", [*operators.__path__, str(HERE / "operators"), str(tmp_path)]
    )
    monkeypatch.setattr(operators, "OPERATORS", OPERATORS)
    monkeypatch.setattr(nodes, "__path__", [*nodes.__path__, str(HERE / "nodes"), str(tmp_path)])
    monkeypatch.setattr(nodes, "NODES", (*nodes.NODES, "shuffle"))
    return tmp_path


@pytest.mark.usefixtures("found")
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", OPERATORS)
def test_a_form_names_a_layer_and_represents_the_weight(name: str, bits: int) -> None:
    """Fake and folded weights are the same numbers; gradients pass straight through."""
    form = integer_form(name)
    assert form is not None
    node = nodes.get_node(form.node)
    assert issubclass(node, SlidingLayer)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 3, 3, 2, generator=generator, dtype=torch.float64)
    # Some are outside of the range of the input.
    weight = weight.mul_(4).requires_grad_()
    scale, zero_point = 2.0 ** (4 - bits), 2**bits * 2 // 5
    qparams = quantization.qparams.QuantParams(scale=scale, zero_point=zero_point, bits=bits)
    fake = form.fake_weight(weight, bits, *qparams.tensors())
    fake.sum().backward()
    assert weight.grad is not None
    assert (weight.grad == 1).all()
    folded = form.fold(weight.detach().numpy(), bits, qparams, lambda scale: scale)
    assert folded.weight.dtype == (np.int8 if form.linear else np.uint8)
    q = np.arange(2**bits)[:, None, None, None, None]
    x = qparams.scale * (q - qparams.zero_point)
    if form.linear:
        acc, exact = q * folded.weight.astype(int), x * fake.detach().numpy()
    else:
        acc = -np.abs(q - folded.weight.astype(int))
        exact = -np.abs(x - fake.detach().numpy())
    sums = folded.gain * acc.sum((2, 3, 4)) + folded.constant
    np.testing.assert_allclose(sums, exact.sum((2, 3, 4)), rtol=1e-6, atol=1e-5)


def powers_of_two(weight: Tensor) -> bool:
    mantissas = weight.abs().frexp().mantissa
    return bool(((mantissas == 0.5) | (mantissas == 0)).all())


@pytest.mark.usefixtures("found")
def test_a_network_of_a_new_operator() -> None:
    network = named("lenet5_bn", "shift2d", num_classes=4)
    images = warm(network, (3, 28, 28))
    graph = quantization.quantize(network, images)
    toy = get_operator("shift2d")
    shifts = [path for path, layer in network.named_modules() if operator_of(layer) is toy]
    assert shifts
    by_name = {node.name: node for node in graph.nodes}
    for path in shifts:
        node = by_name[path]
        assert isinstance(node, Conv2d)
        assert powers_of_two(torch.from_numpy(node.weight).float())
    exact = outputs(network, images[0])
    logits = reference.run(graph, images[0].numpy())
    assert np.abs(logits - exact).max() < 0.1 * np.abs(exact).max()


@pytest.mark.usefixtures("found")
def test_fake_weights_of_a_new_operator() -> None:
    layer = get_operator("shift2d").conv(2, 2, 3)
    fused = fuse(nn.Sequential(layer, nn.AdaptiveAvgPool2d(1), nn.Flatten()), (2, 8, 8))
    first = fused.ops[0]
    assert isinstance(first, FusedLayer)
    params = torch.tensor(0.5), torch.tensor(0, dtype=torch.int32)
    rounding = FakeQuantize(QuantLayout(fused=fused, bits=8), lambda name, x: params)
    rounding.value(fused.input, torch.zeros(1))
    assert powers_of_two(rounding.weight(first, layer))


def test_an_operator_without_an_integer_form(found: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = (HERE / "operators/shift2d/__init__.py").read_text()
    (found / "bare2d").mkdir()
    (found / "bare2d/__init__.py").write_text(source.replace('"shift2d"', '"bare2d"'))
    monkeypatch.setattr(operators, "OPERATORS", (*OPERATORS, "bare2d"))
    network = nn.Sequential(get_operator("bare2d").conv(2, 3, 8), nn.Flatten())
    line = (
        "^quantize: `model` must have layers of operators with an integer form, "
        "got the operator bare2d at 0$"
    )
    with pytest.raises(ConfigError, match=line):
        fuse(network, (2, 8, 8))


class Shuffled(nn.Module):
    """A channel shuffle as a module and as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 6, 3)
        self.shuffle = nn.ChannelShuffle(3)
        self.second = nn.Conv2d(6, 6, 3)
        self.head = nn.Conv2d(6, 3, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.shuffle(torch.relu(self.first(x)))
        x = torch.channel_shuffle(torch.relu(self.second(x)), 2)
        logits: Tensor = self.head(x)
        return logits.flatten(1)


@pytest.mark.usefixtures("found")
def test_a_network_of_a_new_node(tmp_path: Path) -> None:
    network = Shuffled()
    images = warm(network, (2, 8, 8))
    runtime.save(quantization.quantize(network, images), tmp_path / "shuffled.mulfree")
    graph = runtime.load(tmp_path / "shuffled.mulfree")
    assert [node.op for node in graph.nodes] == ["conv2d", "shuffle", "conv2d", "shuffle", "linear"]
    values = reference.trace(graph, images[0].numpy())
    for node, groups in zip(graph.nodes[1::2], (3, 2), strict=True):
        before = torch.from_numpy(values[node.input].transpose(0, 3, 1, 2).copy())
        after = torch.channel_shuffle(before, groups).numpy()
        np.testing.assert_array_equal(values[node.output].transpose(0, 3, 1, 2), after)
    exact = outputs(network, images[0])
    logits = reference.run(graph, images[0].numpy())
    assert np.abs(logits - exact).max() < 0.05 * np.abs(exact).max()


def test_a_node_without_the_facet_is_not_recognised(
    found: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(HERE / "nodes/shuffle", found / "bare")
    (found / "bare/quantize.py").unlink()
    assert nodes.NODES[-1] == "shuffle"
    monkeypatch.setattr(nodes, "NODES", (*nodes.NODES[:-1], "bare"))
    with pytest.raises(ConfigError, match=r"supported operations, got ChannelShuffle at shuffle$"):
        fuse(Shuffled(), (2, 8, 8))


def test_quantization_names_no_operator() -> None:
    folder = Path(quantization.__file__).parent
    for path in folder.glob("*.py"):
        for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
            if token.type == tokenize.NAME:
                assert not re.search("adder|conv2d", token.string, re.IGNORECASE), (path, token)
