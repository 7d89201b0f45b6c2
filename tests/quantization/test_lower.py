"""The integers of a graph against the network, whose values were rounded to the same qparams."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.quantization.networks import named, warm
from tests.quantization.test_fusion import Net, head
from torch import Tensor, nn
from torch.nn import functional

from mulfree import runtime
from mulfree.errors import ConfigError
from mulfree.nn import Adder2d, AdderLinear
from mulfree.nodes import Node
from mulfree.nodes.add import Add
from mulfree.nodes.adder2d import Adder2d as Adder2dNode
from mulfree.nodes.concat import Concat
from mulfree.nodes.concat.quantize import FusedConcat
from mulfree.nodes.conv2d import Conv2d
from mulfree.nodes.lut import Lut
from mulfree.nodes.max_pool import MaxPool
from mulfree.nodes.mean import Mean
from mulfree.nodes.pad import Pad
from mulfree.nodes.repeat import Repeat
from mulfree.quantization import Preprocessing
from mulfree.quantization.calibration import find_ranges, make_qparams
from mulfree.quantization.fake_quantize import FakeQuantize
from mulfree.quantization.fused_graph import execute
from mulfree.quantization.fusion import fuse
from mulfree.quantization.layout import QuantLayout
from mulfree.quantization.lower import lower
from mulfree.quantization.qparams import QuantParams
from mulfree.runtime import reference

Shape = tuple[int, int, int]
PICTURES = Preprocessing(mean=(0.0,) * 2, std=(1.0,) * 2, resize=64)


class Compared(FakeQuantize):
    """Compares every value with the integers, and goes on from these."""

    def __init__(
        self,
        layout: QuantLayout,
        qparams: dict[str, QuantParams],
        made: dict[str, NDArray[np.uint8]],
    ) -> None:
        super().__init__(layout, lambda name, _: qparams[name].tensors())
        self.params = qparams
        self.made = made

    def value(self, name: str, x: Tensor) -> Tensor:
        qparams = self.params[name]
        expected = (super().value(name, x) / qparams.scale).round() + qparams.zero_point
        found = torch.from_numpy(self.made[name]).permute(0, 3, 1, 2).double()
        error = (found - expected).abs()
        # Scales are float32 there, so that a half, of a weight or of a value, now and then falls
        # to the other side.
        assert error.max() <= 1, name
        assert (error > 0).double().mean() <= 1e-2, name
        return qparams.scale * (found - qparams.zero_point)


def lowered(
    net: nn.Module,
    images: list[Tensor],
    bits: int = 8,
    preprocessing: Preprocessing = PICTURES,
) -> runtime.Graph:
    """The graph of a network, whose every integer is compared with the rounded network's."""
    net.double()
    batches = [batch.double() for batch in images]
    _, channels, height, width = images[0].shape
    fused = fuse(net, (channels, height, width))
    layout = QuantLayout(fused=fused, bits=bits)
    qparams = make_qparams(layout, find_ranges(layout, net, batches, "minmax"))
    graph = lower("test", layout, net, qparams, preprocessing)
    joins = [op for op in fused.ops if isinstance(op, FusedConcat)]
    assert len(nodes_of(graph, Concat)) == len(joins)
    array = images[0].numpy()
    hooks = Compared(layout, qparams, reference.trace(graph, array))
    with torch.no_grad():
        logits = execute(layout.fused, net, batches[0], hooks).numpy()
    # The classifier's weights are rounded on both sides, its products summed in float32 on one.
    error = np.abs(reference.run(graph, array) - logits).max()
    assert error <= 1e-5 * np.abs(logits).max()
    return graph


def nodes_of(graph: runtime.Graph, kind: type[Node] | tuple[type[Node], ...]) -> list[Any]:
    return [node for node in graph.nodes if isinstance(node, kind)]


FAMILIES = [
    ("lenet5_bn", 28, {}),
    ("lenet5_bn", 8, {"norm_logits": False}),
    ("vgg_small", 16, {}),
    ("resnet20", 16, {"norm_logits": False}),
    ("resnet18", 32, {}),
    ("resnet50", 32, {}),
    ("resnet18", 16, {"small_input": True}),
]


# Every family with both operators and both widths, and these with each other.
@pytest.mark.parametrize(
    ("operator", "bits", "name", "side", "options"),
    [
        (operator, (8, 4)[(number + shift) % 2], *family)
        for number, family in enumerate(FAMILIES)
        for shift, operator in enumerate(("adder2d", "conv2d"))
    ],
)
def test_families(operator: str, bits: int, name: str, side: int, options: dict[str, Any]) -> None:
    net = named(name, operator, width=0.125, in_channels=2, num_classes=4, **options)
    graph = lowered(net, warm(net, (2, side, side)), bits)
    assert graph.outputs == 4
    kind = Adder2dNode if operator == "adder2d" else Conv2d
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | Adder2d)]
    first, *middle, _ = (n for n in graph.nodes if isinstance(n, (Adder2dNode, Conv2d)))
    assert len(middle) == len(layers) - 3
    assert isinstance(first, Conv2d)
    assert all(isinstance(node, kind) for node in middle)
    top = max(int(np.abs(node.weight.astype(int)).max()) for node in middle)
    assert top <= (2**bits - 1 if operator == "adder2d" else 2 ** (bits - 1) - 1)


def test_adder_layers_at_both_ends() -> None:
    net = nn.Sequential(
        Adder2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), AdderLinear(4 * 9, 3)
    )
    graph = lowered(net, warm(net, (2, 5, 5)))
    assert isinstance(graph.nodes[0], Adder2dNode)


def test_a_layer_with_groups_a_border_and_a_pool() -> None:
    norm = nn.BatchNorm2d(6)
    net = nn.Sequential(
        nn.Conv2d(2, 6, (3, 2), padding=(2, 1), groups=2),
        nn.MaxPool2d(2),
        norm,
        nn.ReLU(),
        head(6),
    )
    images = warm(net, (2, 9, 8))
    with torch.no_grad():
        norm.weight[1:3] *= -1
    graph = lowered(net, images)
    (layer,), (pool,) = nodes_of(graph, Conv2d), nodes_of(graph, MaxPool)
    assert (layer.groups, layer.padding, layer.weight.shape) == (2, (2, 1), (6, 3, 2, 1))
    assert pool.minimum.tolist() == [0, 1, 1, 0, 0, 0]
    assert layer.clamp_min == graph.by_name[layer.output].zero_point


def test_one_layer_is_exact_to_half_a_step() -> None:
    """Exact input and weights, or weights out of range: only the result is rounded."""
    norm = nn.BatchNorm2d(5)
    layer = Adder2d(2, 5, 3, stride=2, padding=1, bias=True)
    stage = nn.Sequential(layer, norm, nn.ReLU())
    net = nn.Sequential(stage, head(5))
    warm(net, (2, 9, 8))
    net.double()
    shared = QuantParams.from_range(-2.0, 3.0, 8)
    with torch.no_grad():
        steps = torch.randint(-400, 400, layer.weight.shape)
        steps[:, :, 0, 0] = 1000  # far outside
        layer.weight.copy_(shared.scale * steps)
        norm.weight[1:3] *= -1
    q = torch.randint(0, 256, (6, 2, 9, 8))
    images = shared.scale * (q.double() - shared.zero_point)
    with torch.no_grad():
        norm.running_mean = layer(images).mean((0, 2, 3))
        norm.running_var = layer(images).var((0, 2, 3))
        expected = stage(images).permute(0, 2, 3, 1).numpy()
    layout = QuantLayout(fused=fuse(net, (2, 9, 8)), bits=8)
    ranges = {name: (0.0, float(expected.max()) * 0.9) for name in layout.bit_widths}
    qparams = make_qparams(layout, ranges) | {layout.fused.input: shared}
    graph = lower("test", layout, net, qparams, PICTURES)
    integers = q.permute(0, 2, 3, 1).numpy().astype(np.uint8)
    made = reference.evaluate(graph.nodes[0], graph.by_name, {graph.input.value: integers})
    target = qparams[layout.fused.ops[0].output]
    real = target.scale * (made.astype(float) - target.zero_point)
    clipped = expected.clip(target.low, target.high)
    assert np.abs(real - clipped).max() <= 0.5 * target.scale * (1 + 1e-6)
    assert 0.2 < (made == 0).mean() < 0.8
    assert 0 < (made == 255).mean() < 0.1


def staged(*modules: nn.Module, channels: int = 4) -> nn.Module:
    """`modules` between a first layer and a classifier, so that they are in the middle."""
    first = (nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
    return nn.Sequential(*first, *modules, head(channels))


@pytest.mark.parametrize("affine", [True, False])
def test_negative_factors_turn_the_maximum_round(affine: bool) -> None:
    norm = nn.BatchNorm2d(6, affine=affine)
    pool = nn.MaxPool2d(3, stride=2, padding=1)
    net = staged(Adder2d(4, 6, 3), pool, norm, nn.ReLU(), channels=6)
    if not affine:
        norm.register_parameter("weight", None)
        images = [torch.randn(8, 2, 8, 8) for _ in range(2)]
    else:
        images = warm(net, (2, 8, 8))
    net.train()
    with torch.no_grad():
        net(images[0])
        if affine:
            norm.weight.mul_(torch.tensor([1.0, -1.0, 1.0, -1.0, -1.0, 1.0]))
    graph = lowered(net.eval(), images)
    (node,) = nodes_of(graph, MaxPool)
    assert node.minimum.tolist() == ([0, 1, 0, 1, 1, 0] if affine else [0] * 6)
    assert (node.kernel, node.stride, node.padding) == ((3, 3), (2, 2), (1, 1))
    assert graph.by_name[node.input].shape == (6, 6, 6)


GEOMETRIES: list[tuple[nn.Conv2d | Adder2d, tuple[int, ...], list[tuple[int, ...]]]] = [
    # A layer, its margins (top, left, bottom, right), and the borders that it cannot make itself
    # (left, right, top, bottom).
    (Adder2d(4, 4, 3, padding="same"), (1, 1, 1, 1), []),
    (Adder2d(4, 4, 3, padding="valid"), (0, 0, 0, 0), []),
    (Adder2d(4, 4, (2, 4), padding="same"), (0, 1, 1, 2), []),
    (Adder2d(4, 4, (4, 1), padding="same"), (1, 0, 2, 0), []),
    (Adder2d(4, 4, 1, padding=1), (0, 0, 0, 0), [(1, 1, 1, 1)]),
    (Adder2d(4, 4, (3, 5), stride=(2, 1), padding=(1, 2), groups=2), (1, 2, 1, 2), []),
    (Adder2d(4, 4, 3, groups=4, bias=True), (0, 0, 0, 0), []),
    (Adder2d(4, 4, 1, dilation=3), (0, 0, 0, 0), []),
    (nn.Conv2d(4, 4, 3, groups=2, padding=2), (2, 2, 2, 2), []),
]


@pytest.mark.parametrize("bits", [8, 5])
@pytest.mark.parametrize(("layer", "margins", "borders"), GEOMETRIES, ids=str)
def test_geometries(
    layer: nn.Conv2d | Adder2d,
    margins: tuple[int, ...],
    borders: list[tuple[int, ...]],
    bits: int,
) -> None:
    # Made when the tests are collected, before there is a seed.
    layer = copy.deepcopy(layer)
    layer.reset_parameters()
    net = staged(layer, nn.BatchNorm2d(4), nn.ReLU())
    graph = lowered(net, warm(net, (2, 7, 8)), bits)
    node = next(n for n in graph.nodes if n.name == "3")
    assert isinstance(node, Adder2dNode | Conv2d)
    assert node.margins == margins
    assert [(p.left, p.right, p.top, p.bottom) for p in nodes_of(graph, Pad)] == borders


@pytest.mark.parametrize(
    ("border", "layer", "margins"),
    [
        ((1, 1, 2, 2), Adder2d(4, 4, 3), (2, 1, 2, 1)),
        ((0, 0, 1, 1), nn.Conv2d(4, 4, 3), (1, 0, 1, 0)),
        ((0, 1, 0, 1), nn.Conv2d(4, 4, 3, stride=2, groups=4), (0, 0, 1, 1)),
        ((2, 1, 1, 0), Adder2d(4, 4, 3, stride=2, groups=4), (1, 2, 0, 1)),
        # Too wide for the layer, and a layer with padding of its own.
        ((0, 3, 0, 0), Adder2d(4, 4, 3), None),
        ((1, 1, 1, 1), Adder2d(4, 4, 1), None),
        ((1, 1, 1, 1), Adder2d(4, 4, 3, padding=1), None),
    ],
)
def test_borders(
    border: tuple[int, ...], layer: nn.Conv2d | Adder2d, margins: tuple[int, ...] | None
) -> None:
    layer.reset_parameters()
    pad = Net(lambda n, x: functional.pad(x, border))
    net = staged(pad, layer, nn.BatchNorm2d(4), nn.ReLU())
    graph = lowered(net, warm(net, (2, 8, 8)), 4)
    node = next(n for n in graph.nodes if n.name == "4")
    assert isinstance(node, Adder2dNode | Conv2d)
    assert len(nodes_of(graph, Pad)) == (margins is None)
    if margins is not None:
        assert node.margins == margins


def test_sums_of_values_and_copies_of_fewer_bits() -> None:
    def forward(net: Any, x: Tensor) -> Any:
        a = net.first(x)
        b = torch.relu(net.norm(net.layer(a)))
        c = torch.relu(a + b)
        return net.head(net.last(c) + (a + c))

    first = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4))
    net = Net(
        forward,
        first=first,
        layer=Adder2d(4, 4, 3, padding=1),
        norm=nn.BatchNorm2d(4),
        last=nn.Sequential(Adder2d(4, 4, 1), nn.BatchNorm2d(4)),
        head=head(4),
    )
    graph = lowered(net, warm(net, (2, 8, 8)), 4)
    ops = [node.op for node in graph.nodes]
    assert ops == ["conv2d", "lut", "adder2d", "add", "add", "lut", "adder2d", "mean", "linear"]
    signed, positive = nodes_of(graph, Lut)
    # The first value is signed and its copy has 4 bits around a zero of its own.
    assert 0 < graph.by_name[signed.input].zero_point < 255
    assert 0 < graph.by_name[signed.output].zero_point < 15
    assert graph.by_name[positive.input].zero_point == 0
    assert signed.table.max() == positive.table.max() == 15


def test_windows_means_and_repeated_pixels() -> None:
    net = staged(
        nn.MaxPool2d((2, 1)),
        nn.AvgPool2d(2, stride=1),
        nn.AdaptiveAvgPool2d((6, 14)),
        Adder2d(4, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
    )
    graph = lowered(net, warm(net, (2, 8, 8)))
    (mean, last) = nodes_of(graph, Mean)
    assert (mean.kernel, mean.stride) == ((2, 2), (1, 1))
    assert (last.kernel, last.stride) == ((4, 12), (1, 1))
    (repeat,) = nodes_of(graph, Repeat)
    assert repeat.factor == 2
    (pool,) = nodes_of(graph, MaxPool)
    assert pool.kernel == (2, 1)
    assert not pool.minimum.any()


@pytest.mark.parametrize("bits", [8, 4])
def test_channels_behind_one_another(bits: int) -> None:
    def forward(net: Any, x: Tensor) -> Any:
        a = torch.relu(net.one(x))
        b = net.two(a)
        joined = torch.cat([a, b, x, a], 1)
        return net.head(torch.relu(net.last(joined)))

    net = Net(
        forward,
        one=nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)),
        two=nn.Sequential(Adder2d(4, 3, 3, padding=1), nn.BatchNorm2d(3)),
        last=nn.Sequential(Adder2d(13, 4, 1), nn.BatchNorm2d(4)),
        head=head(4),
    )
    graph = lowered(net, warm(net, (2, 8, 8)), bits)
    (stack,) = nodes_of(graph, Concat)
    assert stack.order.tolist() == list(range(13))
    made = graph.by_name[stack.output]
    assert made.shape == (13, 8, 8)
    # Each is looked up on the scale of all, once.
    assert len(stack.inputs) == 4
    assert stack.inputs[0] == stack.inputs[3]
    tables = {node.output for node in nodes_of(graph, Lut)}
    assert set(stack.inputs) <= tables | {made.name}


def test_logits_behind_one_another() -> None:
    net = Net(lambda n, x: torch.cat([n.one(x), n.two(x)], 1), one=head(2), two=head(2))
    graph = lowered(net, warm(net, (2, 8, 8)))
    assert graph.outputs == 6


def test_ceilings() -> None:
    def forward(net: Any, x: Tensor) -> Any:
        a = functional.relu6(4 * net.one(x) + net.two(x))
        b = functional.hardtanh(net.three(a), 0.0, 0.5)
        return net.head(net.last(b))

    net = Net(
        forward,
        one=nn.Conv2d(2, 4, 3, padding=1),
        two=nn.Conv2d(2, 4, 3, padding=1),
        three=nn.Sequential(Adder2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)),
        last=nn.Sequential(Adder2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU6()),
        head=head(4),
    )
    graph = lowered(net, warm(net, (2, 8, 8)))
    layers = nodes_of(graph, Adder2dNode)
    assert graph.by_name[layers[0].output].scale == pytest.approx(0.5 / 255)
    assert [(node.clamp_min, node.clamp_max) for node in layers] == [(0, 255), (0, 255)]


def test_a_ceiling_within_the_range() -> None:
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU6(), head(4))
    warm(net, (2, 8, 8))
    layout = QuantLayout(fused=fuse(net, (2, 8, 8)), bits=8)
    qparams = make_qparams(layout, dict.fromkeys(layout.bit_widths, (-1.0, 24.5)))
    graph = lower("test", layout, net, qparams, PICTURES)
    (layer,) = nodes_of(graph, Conv2d)
    # Steps of a tenth from the zero 10 on.
    assert (layer.clamp_min, layer.clamp_max) == (10, 70)


def test_sums_of_multiples() -> None:
    def forward(net: Any, x: Tensor) -> Any:
        a = net.first(x)
        b = torch.relu(net.layer(a) - 0.5 * a)
        return net.head((0.25 * a + b) / 2)

    first = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
    layer = nn.Sequential(Adder2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
    net = Net(forward, first=first, layer=layer, head=head(4))
    graph = lowered(net, warm(net, (2, 8, 8)))
    (adder,), (total,) = nodes_of(graph, Adder2dNode), nodes_of(graph, Add)
    scales = [graph.by_name[name].scale for name in (adder.residual, adder.output)]
    factor = adder.residual_multiplier / 2**adder.shift
    assert factor == pytest.approx(-0.5 * scales[0] / scales[1], rel=1e-6)
    scales = [graph.by_name[name].scale for name in (*total.inputs, total.output)]
    assert total.multiplier / 2**total.shift == pytest.approx(scales[0] / scales[2] / 8)
    assert total.other_multiplier / 2**total.shift == pytest.approx(scales[1] / scales[2] / 2)


def test_shifts_cannot_multiply_by_any_factor() -> None:
    def graph_of(factor: float) -> runtime.Graph:
        net = Net(
            lambda n, x: n.head(n.one(x) + factor * n.two(x)),
            one=nn.Conv2d(2, 4, 1),
            two=nn.Conv2d(2, 4, 1),
            head=head(4),
        )
        images = warm(net, (2, 8, 8))
        layout = QuantLayout(fused=fuse(net, (2, 8, 8)), bits=8)
        ranges = find_ranges(layout, net, images, "minmax")
        qparams = make_qparams(layout, ranges, power_of_two_scales=True)
        return lower("test", layout, net, qparams, PICTURES, power_of_two_scales=True)

    assert graph_of(-0.25).nodes
    line = r"`power_of_two_scales` must be Fal.* got True with 0.3 at o"
    with pytest.raises(ConfigError, match=line):
        graph_of(0.3)


def test_linear_layers_in_the_middle_read_maps() -> None:
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        AdderLinear(4 * 36, 8),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Linear(8, 3),
    )
    norm = net[5]
    assert isinstance(norm, nn.BatchNorm1d)
    norm.momentum = None
    graph = lowered(net, warm(net, (2, 8, 8)))
    (adder,) = nodes_of(graph, Adder2dNode)
    assert adder.weight.shape == (8, 6, 6, 4)


def test_a_layer_used_twice() -> None:
    layer = Adder2d(4, 4, 3, padding=1)
    net = staged(layer, nn.ReLU(), layer, nn.BatchNorm2d(4), nn.ReLU())
    with torch.no_grad():
        layer.weight.mul_(0.1)
        layer.bias = nn.Parameter(torch.full((4,), 20.0))
    graph = lowered(net, warm(net, (2, 8, 8)))
    assert [node.name for node in graph.nodes][:3] == ["0", "3", "3.2"]


@pytest.mark.parametrize("keep", [[], ["first"]])
def test_logits_of_an_adder_layer_leave_as_they_are(keep: list[str]) -> None:
    net = named("resnet20", "adder2d", width=0.125, in_channels=2, keep=keep)
    graph = lowered(net, warm(net, (2, 16, 16)))
    last = graph.nodes[-1]
    assert last.name == "logits"
    value = graph.by_name[last.input]
    images = torch.randn(2, 2, 16, 16).numpy()
    q = reference.trace(graph, images)[last.input].reshape(2, -1)
    np.testing.assert_allclose(
        reference.run(graph, images), value.scale * (q.astype(float) - value.zero_point), rtol=1e-5
    )


def test_pixels_are_normalised_by_a_table() -> None:
    net = named("lenet5_bn", "adder2d", width=0.25)
    mean, std = (0.2, 0.5, 0.4), (0.25, 0.5, 0.3)
    preprocessing = Preprocessing(mean=mean, std=std, resize=40, classes=tuple("abcdefghij"))
    graph = lowered(net, warm(net, (3, 28, 28)), preprocessing=preprocessing)
    assert (graph.input.mean, graph.input.std, graph.input.resize) == (mean, std, 40)
    assert graph.classes == tuple("abcdefghij")
    pixels = np.arange(256)
    for channel, row in enumerate(graph.input.table):
        real = (pixels / 255 - mean[channel]) / std[channel]
        steps = real / graph.input_value.scale + graph.input_value.zero_point
        assert np.abs(row - steps.clip(0, 255)).max() <= 0.5 * (1 + 1e-9)
