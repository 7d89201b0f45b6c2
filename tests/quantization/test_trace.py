from __future__ import annotations

import pytest
import torch
from tests.quantization.networks import named
from torch import Tensor, nn

from mulfree.errors import ConfigError
from mulfree.quantization.trace import trace


class Sized(nn.Module):
    """Asks for the shape of what it computes with."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        if x.shape[2] > 8 and y.shape[1] == 4:
            y = y.relu()
        return y.flatten(1)


@pytest.mark.parametrize(("side", "operations"), [(8, 2), (9, 3)])
def test_a_forward_may_depend_on_shapes(side: int, operations: int) -> None:
    _, *nodes, _ = trace(Sized(), (2, side, side)).nodes
    assert len(nodes) == operations
    assert nodes[0].meta["shape"] == (4, side - 2, side - 2)
    assert nodes[-1].meta["shape"] == (4 * (side - 2) ** 2,)


def test_the_model_is_left_as_it_was() -> None:
    model = named("resnet20", "adder2d", width=0.125).train()
    model.get_submodule("bn1").eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trace(model, (3, 16, 16))
    assert [m for m in model.modules() if not m.training] == [model.get_submodule("bn1")]
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all("forward" not in vars(module) for module in model.modules())


class Chosen(Sized):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y if y.sum() > 0 else -y


def test_a_forward_may_not_depend_on_values() -> None:
    with pytest.raises(ConfigError, match=r"does not depend on the values of images \[2, 8, 8\]"):
        trace(Chosen(), (2, 8, 8))
    with pytest.raises(ConfigError, match=r"got Sized \(.*5 channels"):
        trace(Sized(), (5, 8, 8))
