from __future__ import annotations

import pytest
import torch
from torch import nn

from mulfree import models
from mulfree.models.meta import skipped_initialisation


def shapes(model: nn.Module) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (value.shape, value.dtype) for name, value in model.state_dict().items()}


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2", "early_exit"])
def test_a_network_without_values_has_the_shapes_of_one_with_values(name: str) -> None:
    state = torch.random.get_rng_state()
    with torch.device("meta"):
        model = models.create_model(name, operator="adder2d", width=0.125)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert shapes(model) == shapes(models.create_model(name, operator="adder2d", width=0.125))


def test_tensors_with_memory_are_initialised_as_ever() -> None:
    x = torch.zeros(64, device="cpu")
    with torch.device("meta"), skipped_initialisation():
        nn.init.normal_(x)
        assert x.all()
        x.zero_().uniform_()
    assert x.all()
    assert nn.init.normal_(torch.zeros(8)).all()


def test_initialisation_is_skipped_on_the_meta_device_alone() -> None:
    with skipped_initialisation():
        meta = torch.zeros(3, device="meta")
        assert nn.init.normal_(meta) is meta
        assert nn.init.normal_(torch.zeros(8)).all()
