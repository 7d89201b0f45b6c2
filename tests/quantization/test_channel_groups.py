from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mulfree.nn import Adder2d
from mulfree.nodes.add.quantize import FusedAdd
from mulfree.nodes.fusing import FusedOp
from mulfree.nodes.max_pool.quantize import FusedMaxPool
from mulfree.nodes.mean.quantize import FusedMean
from mulfree.nodes.pad.quantize import FusedPad
from mulfree.nodes.repeat.quantize import FusedRepeat
from mulfree.quantization.channel_groups import ChannelGroup, channel_groups
from mulfree.quantization.fusion import fuse


class Inverted(nn.Module):
    """An inverted residual after a stem, as in MobileNetV2."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_bn = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.project, self.project_bn = nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6)
        self.expand, self.expand_bn = nn.Conv2d(6, 6, 1, groups=2), nn.BatchNorm2d(6)
        self.fc = nn.Linear(6 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu6(self.stem_bn(self.stem(x)))
        x = functional.relu(self.depthwise(x))
        x = self.project_bn(self.project(x))
        x = x + self.expand_bn(self.expand(x))
        logits: Tensor = self.fc(functional.avg_pool2d(x, 4).flatten(1))
        return logits


def groups_of(net: nn.Module, shape: tuple[int, int, int] = (3, 8, 8)) -> tuple[ChannelGroup, ...]:
    return channel_groups(fuse(net.eval(), shape), net)


def test_a_residual_joins_its_summands_and_their_sum() -> None:
    stem, depthwise, residual = groups_of(Inverted())
    assert stem.values == ("relu6",)
    assert stem.ceiling
    assert [op.module for op in stem.readers] == ["depthwise"]
    assert depthwise.values == ("relu",)
    assert not depthwise.ceiling
    assert [op.module for op in depthwise.readers] == ["project"]
    # The mean shares the factors of its input.
    assert residual.values == ("project_bn", "add", "avg_pool2d")
    assert [op.module for op in residual.readers] == ["expand", "fc"]


def ends(middle: nn.Module, last: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), middle, last, nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize(
    ("middle", "count"),
    [
        (nn.Identity(), 1),
        (nn.ReLU6(), 1),
        (nn.MaxPool2d(2), 1),
        # The value before and the value after the function have factors of 1.
        (nn.SiLU(), 0),
        # It reads its input with the weights' own scale; its output cannot be multiplied.
        (Adder2d(4, 4, 1), 0),
        (nn.Sequential(Adder2d(4, 4, 1), nn.BatchNorm2d(4, affine=False)), 0),
        # Its batch norm can be multiplied.
        (nn.Sequential(Adder2d(4, 4, 1), nn.BatchNorm2d(4)), 1),
    ],
)
def test_values_whose_factors_are_fixed(middle: nn.Module, count: int) -> None:
    groups = groups_of(ends(middle, nn.Conv2d(4, 5, 1)))
    assert len(groups) == count


def test_a_layer_used_twice_has_fixed_factors() -> None:
    layer = nn.Conv2d(4, 4, 1)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), layer, layer, nn.Conv2d(4, 5, 8), nn.Flatten())
    assert groups_of(net) == ()
    net[2] = nn.Conv2d(4, 4, 1)
    assert len(groups_of(net)) == 3


FIELDS: dict[str, Any] = {"output": "y", "shape": (2, 4, 4), "input": "x", "path": ""}


@pytest.mark.parametrize(
    "make",
    [
        lambda: FusedAdd(**FIELDS, other="z", factors=(1.0, -0.5), relu=True),
        lambda: FusedMean(**FIELDS, kernel=(2, 2), stride=(2, 2)),
        lambda: FusedMaxPool(**FIELDS, kernel=(2, 2), stride=(2, 2), padding=(1, 1)),
        lambda: FusedPad(**FIELDS, border=(1, 2, 0, 1)),
        lambda: FusedRepeat(**FIELDS, factor=2),
    ],
)
def test_factors_pass_through_equivariant_operations(make: Callable[[], FusedOp]) -> None:
    op = make()
    assert op.equivariant
    x, z = torch.randn(2, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    operands = (x, z)[: len(op.inputs)]
    factors = torch.tensor([0.25, 4.0]).view(2, 1, 1)
    assert torch.equal(
        op.compute(*(factors * v for v in operands)), factors * op.compute(*operands)
    )
