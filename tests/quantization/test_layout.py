from __future__ import annotations

import pytest
from tests.quantization.networks import named
from torch import nn

from mulfree.errors import ConfigError
from mulfree.nn import Adder2d
from mulfree.quantization.fused_graph import FusedGraph
from mulfree.quantization.fused_ops import FusedLayer
from mulfree.quantization.fusion import fuse
from mulfree.quantization.layout import QuantLayout


def fused_graph(name: str, side: int = 32, **options: object) -> FusedGraph:
    return fuse(named(name, "adder2d", width=0.125, **options), (3, side, side))


def layer(fused: FusedGraph, path: str) -> FusedLayer:
    (op,) = (s for s in fused.ops if s.path == path)
    assert isinstance(op, FusedLayer)
    return op


def test_eight_bits_need_no_copies() -> None:
    layout = QuantLayout(fused=fused_graph("resnet20"), bits=8)
    assert set(layout.bit_widths.values()) == {8}
    assert len(layout.bit_widths) == 1 + len(layout.fused.ops) - 1
    assert layout.operand(layer(layout.fused, "layer1.0.conv2")) == "layer1_0_relu1"


def test_what_is_added_keeps_eight_bits() -> None:
    layout = QuantLayout(fused=fused_graph("resnet20"), bits=4)
    qparams = layout.bit_widths
    # Read by one layer alone; read by a layer and added; added alone; read by the classifier.
    assert qparams["layer1_0_relu1"] == 4
    assert (qparams["layer1_0_relu2"], qparams["layer1_0_relu2.copy"]) == (8, 4)
    assert qparams["layer2_0_downsample_1"] == 8
    assert (qparams["avgpool"], qparams["images"]) == (8, 8)
    assert "avgpool.copy" not in qparams
    assert layout.operand(layer(layout.fused, "layer1.1.conv1")) == "layer1_0_relu2.copy"
    assert layout.original("layer1_0_relu2.copy") == layout.original("layer1_0_relu2")
    bits = {path: layout.weight_bits(layer(layout.fused, path)) for path in ("conv1", "fc")}
    assert bits == {"conv1": 8, "fc": 8}
    assert layout.weight_bits(layer(layout.fused, "layer3.2.conv2")) == 4


def test_a_pooled_value_has_the_grid_of_what_was_pooled() -> None:
    layout = QuantLayout(fused=fused_graph("lenet5_bn"), bits=5)
    assert layout.roots["pool1"] == "relu1"
    assert layout.bit_widths == {"images": 8, "relu1": 5, "relu2": 5, "relu3": 5, "relu4": 8}


def test_first_layers_behind_a_border_have_eight_bits() -> None:
    layout = QuantLayout(fused=fused_graph("lenet5_bn", 28, keep=["last"]), bits=4)
    first = layer(layout.fused, "conv1")
    assert (layout.operand(first), layout.weight_bits(first)) == ("images", 8)


@pytest.mark.parametrize("bits", [7, 0, 16, "8"])
def test_other_bits_are_refused(bits: int) -> None:
    with pytest.raises(ConfigError, match=r"quantize: `bits` must be one of 8, 6, 5, 4, got"):
        QuantLayout(fused=fused_graph("lenet5_bn"), bits=bits)


def test_units_hold_the_number_of_what_is_averaged() -> None:
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AvgPool2d(3), nn.MaxPool2d(1), nn.AvgPool2d((1, 2))
    )
    whole = nn.Sequential(net, Adder2d(4, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    layout = QuantLayout(fused=fuse(whole, (2, 11, 11)), bits=4)
    first, pooled, mean, adder, last = list(layout.units.values())[1:]
    assert (first, pooled, adder) == (1.0, 1 / 9, 1.0)
    assert mean == pytest.approx(1 / 18)
    assert last == pytest.approx(1 / 3)
