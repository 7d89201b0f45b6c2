from __future__ import annotations

import pytest
import torch
from torch import nn

from mulfree import models
from mulfree.models.residual import BasicBlock, Bottleneck


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_block_with_a_branch_of_zeros_is_its_shortcut(
    block: type[BasicBlock] | type[Bottleneck], stride: int
) -> None:
    module = block(8, 2 if block is Bottleneck else 8, stride)
    nn.init.zeros_(module.get_parameter(block.last_scale))
    images = torch.randn(3, 8, 6, 6)
    expected = module.downsample(images).relu()
    torch.testing.assert_close(module(images), expected)
    assert expected.shape == (3, 8, 6 // stride, 6 // stride)
    assert isinstance(module.downsample, nn.Identity) == (stride == 1)


@pytest.mark.parametrize("name", ["resnet20", "resnet18", "resnet50"])
def test_zero_init_residual(name: str) -> None:
    model = models.create_model(name, width=1 / 16, zero_init_residual=True)
    blocks = [module for module in model.modules() if isinstance(module, BasicBlock | Bottleneck)]
    assert blocks
    assert not any(block.get_parameter(block.last_scale).any() for block in blocks)
    assert all((block.bn1.weight == 1).all() for block in blocks)


def test_small_input_keeps_the_size_up_to_the_second_stage() -> None:
    model = models.create_model("resnet18", width=1 / 16, small_input=True)
    sizes = {}
    for name in ("layer1", "layer2", "layer3", "layer4"):
        model.get_submodule(name).register_forward_hook(
            lambda _module, _input, output, name=name: sizes.update({name: output.shape[2]})
        )
    model(torch.randn(2, 3, 32, 32))
    assert sizes == {"layer1": 32, "layer2": 16, "layer3": 8, "layer4": 4}


def test_convolutions_of_the_large_networks_start_as_in_the_authors_code() -> None:
    model = models.create_model("resnet18")
    weight = model.get_parameter("layer3.1.conv1.weight").detach()
    assert float(weight.std()) == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.01)
