from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from tests.quantization.networks import named, warm
from torch import Tensor, nn
from torch.nn import functional

from mulfree.errors import ConfigError
from mulfree.nn import Adder2d, AdderLinear
from mulfree.nodes.add.quantize import FusedAdd
from mulfree.nodes.concat.quantize import FusedConcat
from mulfree.nodes.max_pool.quantize import FusedMaxPool
from mulfree.nodes.mean.quantize import FusedMean
from mulfree.nodes.pad.quantize import FusedPad
from mulfree.nodes.repeat.quantize import FusedRepeat
from mulfree.nodes.sliding import Pair
from mulfree.quantization.fused_graph import FusedGraph, Hooks, by_output, classifies, execute
from mulfree.quantization.fused_ops import FusedLayer
from mulfree.quantization.fusion import fuse


class Net(nn.Module):
    """A forward made of modules that are given by name."""

    def __init__(self, forward: Any, **modules: nn.Module) -> None:
        super().__init__()
        self._function = forward
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Any:
        return self._function(self, x)


def as_module(step: Any) -> nn.Module:
    """A module, or a function of tensors as one."""
    return step if isinstance(step, nn.Module) else Net(lambda n, x: step(x))


def head(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3))


def fused_of(net: nn.Module, shape: tuple[int, int, int] = (2, 8, 8)) -> FusedGraph:
    """Fused graph, whose logits equal the network's."""
    warm(net, shape)
    net.double()
    fused = fuse(net, shape)
    images = torch.randn(3, *shape, dtype=torch.float64)
    with torch.no_grad():
        # Means may be summed up in another order.
        torch.testing.assert_close(
            execute(fused, net, images, Hooks()), net(images).flatten(1), rtol=1e-12, atol=1e-12
        )
    return fused


def pool_of(layer: FusedLayer) -> tuple[Pair, Pair, Pair] | None:
    """Kernel, stride and padding of the pooling in a layer."""
    pool = layer.pool
    if pool is None:
        return None
    assert isinstance(pool, FusedMaxPool)
    return pool.kernel, pool.stride, pool.padding


@pytest.mark.parametrize("operator", ["adder2d", "conv2d"])
@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("lenet5_bn", 28),
        ("lenet5_bn", 8),
        ("lenet5_bn", 32),
        ("vgg_small", 32),
        ("vgg_small", 16),
        ("resnet20", 32),
        ("resnet18", 64),
        ("resnet50", 32),
    ],
)
def test_families(name: str, side: int, operator: str) -> None:
    fused = fused_of(named(name, operator, width=0.125), (3, side, side))
    assert isinstance(last := fused.ops[-1], FusedLayer)
    assert last.classifies
    assert (last.module, fused.shape) == ("fc", (3, side, side))


def test_a_block_is_two_ops() -> None:
    fused = fused_of(named("resnet20", "adder2d", width=0.125), (3, 16, 16))
    assert len(fused.ops) == 1 + 9 * 2 + 2 + 1 + 1
    block = [op for op in fused.ops if op.path.startswith("layer2.0")]
    assert [op.path for op in block] == [
        "layer2.0.conv1",
        "layer2.0.downsample.0",
        "layer2.0.conv2",
    ]
    first, shortcut, last = block
    assert isinstance(first, FusedLayer)
    assert isinstance(shortcut, FusedLayer)
    assert isinstance(last, FusedLayer)
    assert (first.batch_norm, first.relu, first.residual) == ("layer2.0.bn1", True, None)
    assert (shortcut.batch_norm, shortcut.relu) == ("layer2.0.downsample.1", False)
    assert (last.batch_norm, last.relu, last.residual) == ("layer2.0.bn2", True, shortcut.output)
    assert first.input == shortcut.input
    assert last.shape == (4, 8, 8)
    assert isinstance(fused.ops[-2], FusedMean)
    assert fused.ops[-2].kernel == (4, 4)


def test_a_maximum_before_the_normalisation_is_part_of_the_step() -> None:
    fused = fused_of(named("vgg_small", "adder2d", width=0.0625), (3, 16, 16))
    window = ((2, 2), (2, 2), (0, 0))
    pools = [pool_of(op) for op in fused.ops if isinstance(op, FusedLayer)]
    assert pools == [None, window, None, window, None, window, None]
    # 2x2 positions are repeated to 4x4.
    assert isinstance(fused.ops[-2], FusedRepeat)
    assert fused.ops[-2].factor == 2


def test_other_forms_of_the_same_operations() -> None:
    def forward(net: Any, x: Tensor) -> Any:
        x = functional.pad(x, (1, 1, 1, 1))
        a = torch.relu(net.bn(net.one(x)))
        b = functional.relu(net.two(a))
        # A sum of two values that have other readers, too, is an op of its own.
        c = (a + b).relu()
        c = net.pool(torch.add(c, a))
        return torch.flatten(net.fc(net.mean(c)), 1)

    net = Net(
        forward,
        one=Adder2d(2, 4, 3),
        bn=nn.BatchNorm2d(4),
        two=nn.Conv2d(4, 4, 3, padding="same"),
        pool=nn.MaxPool2d(2),
        mean=nn.AvgPool2d(2),
        fc=nn.Conv2d(4, 3, 2),
    )
    fused = fused_of(net)
    kinds = [FusedPad, *[FusedLayer] * 2, *[FusedAdd] * 2, FusedMaxPool, FusedMean, FusedLayer]
    assert [type(op) for op in fused.ops] == kinds
    first, second = (op for op in fused.ops if isinstance(op, FusedAdd))
    assert (first.relu, second.relu) == (True, False)
    assert [classifies(op) for op in fused.ops] == [False] * 7 + [True]


def both(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """A value that has another reader, and what a layer makes of it."""
    a = torch.relu(net.one(x))
    return a, net.two(a)


def halves(net: Any, x: Tensor) -> Tensor:
    a, b = both(net, x)
    a += b
    return 0.5 * a


SUMS: list[tuple[Any, Any]] = [
    # Factor of a layer's residual, or factors of two values.
    (lambda n, x: (y := both(n, x))[0] + 0.5 * y[1], (1.0, 0.5)),
    (lambda n, x: (y := both(n, x))[1] + 0.5 * y[0], 0.5),
    (lambda n, x: (y := both(n, x))[1] - y[0], -1.0),
    (lambda n, x: (y := both(n, x))[0] - y[1], (1.0, -1.0)),
    (lambda n, x: (y := both(n, x))[1] + y[0] / 4, 0.25),
    (lambda n, x: (y := both(n, x))[1] + -(y[0] * 3), -3.0),
    (lambda n, x: torch.add(*both(n, x)[::-1], alpha=0.3), 0.3),
    (lambda n, x: both(n, x)[1].add_(both(n, x)[0]), 1.0),
    (lambda n, x: torch.sub(input=(y := both(n, x))[1], other=y[0], alpha=2), -2.0),
    (lambda n, x: sum(both(n, x)[1:], start=both(n, x)[0]) / 2, (0.5, 0.5)),
    (halves, (0.5, 0.5)),
    # A multiple of a sum that is a summand itself, as a value with a scale of its own.
    (lambda n, x: ((y := both(n, x))[0] + y[1]) / 2 - y[0], (1.0, -1.0)),
    (lambda n, x: (y := both(n, x))[0] - 0.5 * ((y[0] + y[1]) * 3), (1.0, -1.0)),
]


@pytest.mark.parametrize(("made", "factors"), SUMS)
def test_sums_of_multiples(made: Any, factors: Any) -> None:
    layers = {"one": nn.Conv2d(2, 4, 1), "two": nn.Conv2d(4, 4, 1), "head": head(4)}
    net = Net(lambda n, x: n.head(torch.relu(made(n, x))), **layers)
    *_, op, _, _ = fused_of(net).ops
    assert isinstance(op, FusedLayer | FusedAdd)
    assert op.relu
    found = op.residual_factor if isinstance(op, FusedLayer) else op.factors
    assert found == pytest.approx(factors)


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize(
    "join",
    [
        lambda a, b: torch.cat([a, b], 1),
        lambda a, b: torch.cat((a, b), dim=-3 if a.ndim == 4 else -1),
        lambda a, b: torch.concat(tensors=[a, b], dim=1),
        lambda a, b: torch.cat([a, b], axis=1),  # type: ignore[call-arg]
        lambda a, b: torch.concatenate([a, b], 1),
    ],
)
def test_channels_behind_one_another(join: Any, flat: bool) -> None:
    def forward(net: Any, x: Tensor) -> Any:
        parts = [net.one(x), torch.relu(net.two(x))]
        return net.fc(join(*(p.flatten(1) if flat else p for p in parts)).flatten(1))

    net = Net(forward, one=nn.Conv2d(2, 4, 1), two=nn.Conv2d(2, 3, 1), fc=nn.Linear(7 * 64, 3))
    ops = fused_of(net).ops
    assert [type(op) for op in ops] == [FusedLayer, FusedLayer, FusedConcat, FusedLayer]
    assert ops[2].shape == (7, 8, 8)
    assert ops[2].inputs == tuple(op.output for op in ops[:2])


POOLED: list[Any] = [
    lambda x: x.mean((2, 3)),
    lambda x: x.mean([-1, -2], keepdim=True).squeeze(-1).squeeze(-1),
    lambda x: torch.mean(x, dim=(2, 3)),
    lambda x: x.contiguous(memory_format=torch.channels_last).clone().detach().mean((2, 3)),
    lambda x: x.mean(axis=(2, 3), keepdims=True).flatten(1),
    lambda x: nn.AdaptiveAvgPool2d(1)(x).view(x.size(0), -1),
    lambda x: functional.adaptive_avg_pool2d(x, (1, 1)).reshape(len(x), x.shape[1]),
    lambda x: functional.avg_pool2d(x, x.shape[2:]).view(-1, 4),
    lambda x: nn.Flatten()(functional.avg_pool2d(x, kernel_size=8)),
    lambda x: torch.squeeze(functional.adaptive_avg_pool2d(x, 1)),
]


@pytest.mark.parametrize("pool", POOLED)
def test_means_of_maps(pool: Any) -> None:
    layers = {"one": nn.Conv2d(2, 4, 1), "fc": nn.Linear(4, 3)}
    mean = fused_of(Net(lambda n, x: n.fc(pool(functional.relu(n.one(x)))), **layers)).ops[1]
    assert isinstance(mean, FusedMean)
    assert (mean.kernel, mean.shape) == ((8, 8), (4, 1, 1))


RECTIFIERS: list[tuple[Any, float | None]] = [
    (nn.ReLU(), None),
    (nn.ReLU6(), 6.0),
    (nn.Hardtanh(0.0, 0.5), 0.5),
    (lambda x: nn.ReLU(inplace=True)(x), None),
    (lambda x: functional.relu6(x), 6.0),
    (lambda x: functional.hardtanh(x, 0.0, 0.5), 0.5),
    (lambda x: x.clamp(min=0), None),
    (lambda x: torch.clamp(x, 0, 0.25), 0.25),
    (lambda x: x.clamp_min(0.0), None),
    (lambda x: x.relu_(), None),
    (lambda x: functional.relu(functional.relu6(x)).clip(0, 0.5), 0.5),
]


@pytest.mark.parametrize(("rectifier", "ceiling"), RECTIFIERS)
@pytest.mark.parametrize("of_sum", [False, True])
def test_rectifiers(rectifier: Any, ceiling: float | None, of_sum: bool) -> None:
    def forward(net: Any, x: Tensor) -> Any:
        y = net.one(x)
        return net.head(net.relu(y + 2 * y if of_sum else y))

    layers = {"one": nn.Conv2d(2, 4, 1), "relu": as_module(rectifier), "head": head(4)}
    op = fused_of(Net(forward, **layers)).ops[of_sum]
    assert isinstance(op, FusedLayer | FusedAdd)
    assert (op.relu, op.ceiling) == (True, ceiling)


@pytest.mark.parametrize(
    "enlarge",
    [
        nn.Upsample(scale_factor=2),
        nn.Upsample((16, 16), mode="nearest"),
        nn.UpsamplingNearest2d(scale_factor=2),
        lambda x: functional.interpolate(x, scale_factor=2, mode="nearest-exact"),
        lambda x: functional.interpolate(x, (16, 16)),
    ],
)
def test_enlargements(enlarge: Any) -> None:
    op = fused_of(nn.Sequential(nn.Conv2d(2, 4, 1), as_module(enlarge), head(4))).ops[1]
    assert isinstance(op, FusedRepeat)
    assert (op.factor, op.shape) == (2, (4, 16, 16))


@pytest.mark.parametrize(
    ("pad", "border"),
    [
        (nn.ZeroPad2d((1, 0, 2, 3)), (1, 0, 2, 3)),
        (nn.ConstantPad2d(1, 0.0), (1, 1, 1, 1)),
        (lambda x: functional.pad(x, (1, 2)), (1, 2, 0, 0)),
        (lambda x: functional.pad(x, [1, 2, 3, 4], value=0), (1, 2, 3, 4)),
        (lambda x: nn.ZeroPad2d(1)(x), (1, 1, 1, 1)),
    ],
)
def test_borders_of_zeros(pad: Any, border: tuple[int, ...]) -> None:
    op = fused_of(nn.Sequential(as_module(pad), nn.Conv2d(2, 4, 3), head(4))).ops[0]
    assert isinstance(op, FusedPad)
    assert op.border == border


def test_a_maximum_before_a_relu_is_part_of_the_step() -> None:
    def forward(net: Any, x: Tensor) -> Any:
        x = functional.relu(functional.max_pool2d(net.drop(net.one(x)), 2))
        x = functional.dropout(x.reshape(len(x), -1), training=net.training)
        return net.fc(x)

    net = Net(forward, one=nn.Conv2d(2, 4, 3), drop=nn.Dropout2d(), fc=nn.Linear(36, 3))
    first, _ = fused_of(net).ops
    assert isinstance(first, FusedLayer)
    assert pool_of(first) == ((2, 2), (2, 2), (0, 0))
    assert (first.relu, first.shape) == (True, (4, 3, 3))


def test_a_flattened_sum_keeps_its_shape() -> None:
    layers = {"one": nn.Conv2d(2, 4, 1), "fc": nn.Linear(256, 3)}
    net = Net(lambda n, x: n.fc((n.one(x) + torch.relu(n.one(x))).flatten(1)), **layers)
    assert fused_of(net).ops[-2].shape == (4, 8, 8)


def test_a_value_added_to_itself() -> None:
    layer = nn.Conv2d(2, 4, 1)
    op = fused_of(Net(lambda n, x: n.head((y := n.one(x)) + y), one=layer, head=head(4))).ops[1]
    assert isinstance(op, FusedAdd)
    assert op.input == op.other


def test_several_outputs_come_one_after_the_other() -> None:
    net = Net(
        lambda n, x: (
            {"early": n.h(y := n.a(x)), "middle": n.g(y).mean((2, 3)), "late": n.k(n.b(y))}
        ),
        **{name: nn.Conv2d(2, 2, 3, padding=1) for name in "abg"},
        **{name: head(2) for name in "hk"},
    )
    images = warm(net, (2, 8, 8))[0].double()
    net.double()
    fused = fuse(net, (2, 8, 8))
    paths = ["a", "h.0", "h.2", "g", "mean", "b", "k.0", "k.2"]
    assert [op.path for op in fused.ops] == paths
    assert [op.path for op in fused.ops if classifies(op)] == ["h.2", "k.2"]
    assert list(fused.outputs) == ["early", "middle", "late"]
    ends = [op.output for op in fused.ops if op.path in ("h.2", "mean", "k.2")]
    assert list(fused.outputs.values()) == ends
    with torch.no_grad():
        expected = torch.cat(list(net(images).values()), dim=1)
        torch.testing.assert_close(execute(fused, net, images, Hooks()), expected)
    parts = by_output(fused.ops, ends)
    assert [len(part) for part in parts] == [3, 2, 3]
    assert by_output(fused.ops, ends[2:] + ends[:1]) == [
        [op for op in fused.ops if op.path in ("a", "b", "k.0", "k.2")],
        [op for op in fused.ops if op.path in ("h.0", "h.2")],
    ]


def test_logits_that_are_no_classifiers() -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert not classifies(fused_of(net).ops[-1])
    net = nn.Sequential(nn.Flatten(), AdderLinear(2 * 64, 3), nn.BatchNorm1d(3))
    fused = fuse(net, (2, 8, 8))
    assert not classifies(fused.ops[-1])
    net = nn.Sequential(nn.Flatten(), nn.Linear(2 * 64, 3), nn.BatchNorm1d(3))
    assert classifies(fuse(net, (2, 8, 8)).ops[-1])
    grouped = nn.Sequential(nn.Conv2d(2, 4, 8, groups=2), nn.Flatten())
    assert not classifies(fused_of(grouped).ops[-1])


REFUSED: list[tuple[str, nn.Module]] = [
    ("got PReLU at 1", nn.Sequential(nn.Conv2d(2, 4, 1), nn.PReLU(), head(4))),
    ("got torch.sin in forward", Net(lambda n, x: n.h(torch.sin(x)), h=head(2))),
    ("normalise the output of a layer", nn.Sequential(nn.BatchNorm2d(2), head(2))),
    (
        "normalise the output of a layer",
        nn.Sequential(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4, track_running_stats=False), head(4)),
    ),
    ("have no dilated layers", nn.Sequential(nn.Conv2d(2, 4, 3, dilation=2), head(4))),
    (
        "pad with zeros, got padding_mode 'reflect'",
        nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"), head(4)),
    ),
    ("have plain adder layers", nn.Sequential(Adder2d(2, 4, 3, norm=1.5), head(4))),
    ("without dilation and ceil_mode", nn.Sequential(nn.MaxPool2d(2, ceil_mode=True), head(2))),
    ("average pooling of whole windows", nn.Sequential(nn.AvgPool2d(2, padding=1), head(2))),
    ("average pooling with windows of one size", nn.Sequential(nn.AdaptiveAvgPool2d(3), head(2))),
    ("flatten the input of a linear layer", nn.Sequential(nn.Linear(8, 3), head(2))),
    ("one number per class", nn.Sequential(nn.Conv2d(2, 4, 1))),
    ("compute its logits in its last layer", Net(lambda n, x: x.flatten(1))),
    (
        "compute with tensors of the network alone",
        Net(lambda n, x: n.h(torch.add(x, other=1.0)), h=head(2)),
    ),
    ("add values of one shape", Net(lambda n, x: n.h(x + n.c(x)), h=head(2), c=nn.Conv2d(2, 1, 1))),
    (
        "pad rows and columns with zeros",
        Net(lambda n, x: n.h(functional.pad(x, (1, 1), value=2.0)), h=head(2)),
    ),
    (
        "return logits, one tensor or several by name, got tuple at its end",
        Net(lambda n, x: {"logits": (n.h(x),)}, h=head(2)),
    ),
    ("return logits, one tensor or several by name, got none", Net(lambda n, x: {})),
    (
        "compute its logits in its last layer, got h_2 earlier at its end",
        Net(lambda n, x: dict.fromkeys("ab", n.h(x)), h=head(2)),
    ),
    (
        "return logits, one tensor or several by name, got tuple",
        Net(lambda n, x: (n.h(x),), h=head(2)),
    ),
    (
        "got torch.nn.functional.glu in h.act.forward",
        Net(lambda n, x: n.h(x), h=Net(lambda n, x: n.act(x), act=Net(lambda n, x: nn.GLU()(x)))),
    ),
    (
        "got torch.nn.functional.conv2d in forward",
        Net(lambda n, x: functional.conv2d(x, n.c.weight), c=nn.Conv2d(2, 3, 8)),
    ),
    (
        "got torch.nn.functional.dropout in forward",
        Net(lambda n, x: n.h(functional.dropout(x)), h=head(2)),
    ),
    (
        "multiply maps by one number for each channel, got [2, 8, 8] and [2, 8, 8] at operator.mul",
        Net(lambda n, x: n.h(x * n.c(x)), h=head(2), c=nn.Conv2d(2, 2, 1)),
    ),
    (
        "multiply maps by one number for each channel, got [2, 8, 8] and [1, 8, 8] at torch.mul",
        Net(lambda n, x: n.h(torch.mul(x, n.c(x))), h=head(2), c=nn.Conv2d(2, 1, 1)),
    ),
    (
        "multiply maps by one number for each channel, got [128] and [128] at operator.mul",
        Net(
            lambda n, x: n.h((y := x.flatten(1)) * n.f(y)),
            h=nn.Linear(128, 3),
            f=nn.Linear(128, 128),
        ),
    ),
    (
        "compute with tensors of the network alone, got c.weight at operator.mul in forward",
        Net(lambda n, x: n.h(x * n.c.weight), h=head(2), c=nn.Conv2d(2, 2, 8)),
    ),
    (
        "expand tensors in products only, got Tensor.expand in forward at h",
        Net(lambda n, x: n.h(n.p(x).expand(-1, -1, 8, 8)), h=nn.Conv2d(2, 3, 8), p=nn.AvgPool2d(8)),
    ),
    (
        "got operator.truediv in forward",
        Net(lambda n, x: n.h(x / n.p(x)), h=head(2), p=nn.AvgPool2d(8)),
    ),
    ("got Tensor.mean in forward", Net(lambda n, x: n.h(x.mean(1, keepdim=True)), h=head(1))),
    ("got torch.clamp in forward", Net(lambda n, x: n.h(torch.clamp(x, 1, -1)), h=head(2))),
    (
        "got torch.nn.functional.pad in forward",
        Net(lambda n, x: n.h(functional.pad(x, (1, 1, 1, 1), mode="reflect")), h=head(2)),
    ),
    (
        "use multiples in sums only, got operator.mul in forward at h.0",
        Net(lambda n, x: n.h(0.5 * x), h=head(2)),
    ),
    (
        "compute with tensors of the network alone, got a constant tensor at operator.add",
        Net(lambda n, x: n.h(x + torch.ones(2, 8, 8)), h=head(2)),
    ),
    (
        "compute with tensors of the network alone, got c.weight at operator.add in forward",
        Net(lambda n, x: n.h(x + n.c.weight), h=head(2), c=nn.Conv2d(2, 2, 8)),
    ),
    (
        "keep images separate, got another number of elements at Tensor.view",
        Net(lambda n, x: n.h(x.view(-1, 64)), h=nn.Linear(64, 3)),
    ),
    (
        "read a feature map [C, H, W], got [2, 64] at torch.nn.functional.max_pool2d",
        Net(lambda n, x: functional.max_pool2d(x.flatten(2), 2).flatten(1)),
    ),
    (
        "normalise the filters of a layer, got [256] at n",
        Net(
            lambda n, x: n.h(n.n(n.c(x).flatten(1))),
            c=nn.Conv2d(2, 4, 1),
            n=nn.BatchNorm1d(256),
            h=nn.Linear(256, 3),
        ),
    ),
    (
        "have max pooling without return_indices",
        Net(lambda n, x: n.h(n.p(x)[0]), p=nn.MaxPool2d(2, return_indices=True), h=head(2)),
    ),
    (
        "concatenate by channels (dim 1), got dim 2 at torch.cat",
        Net(lambda n, x: n.h(torch.cat([x, x], 2)), h=head(2)),
    ),
    (
        "concatenate maps of one size, got (4, 8, 8) and (4, 4, 4) at torch.cat",
        Net(
            lambda n, x: n.f(torch.cat([n.c(x).flatten(1), n.p(n.c(x)).flatten(1)], 1)),
            c=nn.Conv2d(2, 4, 1),
            p=nn.MaxPool2d(2),
            f=nn.Linear(320, 3),
        ),
    ),
    (
        "add values of one shape",
        Net(
            lambda n, x: n.f(n.g(x.flatten(1)) + n.c(x).flatten(1)),
            c=nn.Conv2d(2, 4, 1),
            g=nn.Linear(128, 256),
            f=nn.Linear(256, 3),
        ),
    ),
    (
        "consist of supported operations, got arguments other, out at torch.add in forward",
        Net(lambda n, x: n.h(torch.add(x, other=x, out=None)), h=head(2)),
    ),
    (
        "upsample by repeating pixels, got (8, 8) to (16, 16), bilinear at 0",
        nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), head(2)),
    ),
    (
        "upsample by repeating pixels",
        Net(lambda n, x: n.h(functional.interpolate(x, size=(12, 12))), h=head(2)),
    ),
]


@pytest.mark.parametrize(("message", "net"), REFUSED, ids=lambda value: str(value)[:30])
def test_refused(message: str, net: nn.Module) -> None:
    with pytest.raises(ConfigError, match=r"quantize: `model` must .*" + re.escape(message)):
        fuse(net, (2, 8, 8))
