from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from mulfree.models.wrappers import unwrapped


def compiled(network: nn.Module) -> nn.Module:
    wrapper: Any = torch.compile(network)
    assert isinstance(wrapper, nn.Module)
    return wrapper


@pytest.mark.parametrize(
    "wrap",
    [
        compiled,
        nn.DataParallel,
        lambda network: nn.DataParallel(compiled(network)),
        lambda network: compiled(nn.DataParallel(network)),
        lambda network: network,
    ],
)
def test_the_network_inside_is_the_very_same(wrap: Callable[[nn.Module], nn.Module]) -> None:
    network = nn.Sequential(nn.Linear(3, 2))
    assert unwrapped(wrap(network)) is network


def test_an_averaged_model_holds_a_network_of_its_own() -> None:
    averaged = AveragedModel(nn.Sequential(nn.Linear(3, 2)))
    assert unwrapped(averaged) is averaged.module
    assert unwrapped(compiled(averaged)) is averaged.module


@pytest.mark.parametrize(
    ("module", "name", "attribute"),
    [
        ("torch.nn.parallel.distributed", "DistributedDataParallel", "module"),
        ("torch.distributed.fsdp", "FullyShardedDataParallel", "_fsdp_wrapped_module"),
    ],
)
def test_wrappers_of_several_processes(module: str, name: str, attribute: str) -> None:
    wrapper = getattr(pytest.importorskip(module), name)
    # Made without its constructor, which needs a group of processes.
    model = wrapper.__new__(wrapper)
    nn.Module.__init__(model)
    network = nn.Linear(3, 2)
    setattr(model, attribute, network)
    assert unwrapped(model) is network


def test_a_network_with_a_part_called_module_is_no_wrapper() -> None:
    network = nn.Module()
    network.module = nn.Linear(3, 2)
    assert unwrapped(network) is network
