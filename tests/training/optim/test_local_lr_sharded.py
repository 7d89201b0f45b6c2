"""Two processes take the step that one takes, with copies of the network and with parts of it."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, distribute_tensor
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD

from mulfree.nn import Adder2d, AdderLinear
from mulfree.operators.operator import mark_adaptive_local_lr
from mulfree.training import AdaptiveLocalLR
from mulfree.training.optim.local_lr import GradientError

WORLD = 2
# Float32, in which a batch is summed in another order when it is divided: the losses of two
# halves are added, not those of eight images.
TOLERANCE: dict[str, Any] = {"rtol": 1e-6, "atol": 1e-6}

pytestmark = pytest.mark.skipif((os.cpu_count() or 1) < WORLD, reason="needs two processors")


def network(gradient: str) -> nn.Sequential:
    """An adder network that treats every image for itself, with layers that do not divide evenly.

    Not batch normalisation: it sees the images of its own process, and torch has no
    `SyncBatchNorm` for a CPU.
    """
    torch.manual_seed(0)
    adder, linear = Adder2d(2, 5, 3, gradient=gradient), AdderLinear(20, 1, gradient=gradient)
    return nn.Sequential(
        nn.Sequential(adder, nn.GroupNorm(1, 5), nn.ReLU()),
        nn.Sequential(nn.Flatten(), linear, nn.Linear(1, 3)),
    )


def adder_weights(model: nn.Module) -> list[nn.Parameter]:
    return [m.weight for m in model.modules() if isinstance(m, (Adder2d, AdderLinear))]


def optimizer_of(model: nn.Module) -> AdaptiveLocalLR:
    return AdaptiveLocalLR(SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01))


def two_steps(model: nn.Module, optimizer: AdaptiveLocalLR, rows: slice) -> None:
    for seed in range(2):
        images = torch.randn(8, 2, 4, 4, generator=torch.Generator().manual_seed(seed))
        labels = torch.arange(8) % 3
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
        optimizer.step()


def whole(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def assert_equal_networks(model: nn.Module, expected: nn.Module) -> None:
    for (name, p), q in zip(model.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(whole(p), q.detach(), **TOLERANCE, msg=name)
        # What the wrapped optimiser has used: rescaled.
        torch.testing.assert_close(whole(p.grad), whole(q.grad), **TOLERANCE, msg=name)


def ddp(rank: int, mesh: DeviceMesh) -> None:
    """Every process has the network and half of the batch."""
    model, expected = network("adder"), network("adder")
    two_steps(expected, optimizer_of(expected), slice(None))
    wrapped = DistributedDataParallel(model)
    two_steps(wrapped, optimizer_of(wrapped), slice(4 * rank, 4 * rank + 4))
    assert_equal_networks(model, expected)
    for weight in adder_weights(model):
        assert whole(weight.grad).square().mean().sqrt() == pytest.approx(0.2, rel=1e-6)


def fsdp(rank: int, mesh: DeviceMesh) -> None:
    """Every process has half of the rows of every parameter, and half of the batch."""
    model, expected = network("l1"), network("l1")
    two_steps(expected, optimizer_of(expected), slice(None))
    for module in (*model, model):
        fully_shard(module, mesh=mesh)
    rows = []
    for weight in adder_weights(model):
        # Sharding makes another parameter, which is not marked.
        mark_adaptive_local_lr(weight)
        assert isinstance(weight, DTensor)
        rows.append(weight.to_local().shape[0])
    assert rows == ([3, 1] if rank == 0 else [2, 0])
    two_steps(model, optimizer_of(model), slice(4 * rank, 4 * rank + 4))
    assert_equal_networks(model, expected)


def parameter(mesh: DeviceMesh, placements: list[Placement]) -> nn.Parameter:
    """A parameter of zeros and the gradient 1, 2, .. 12, divided over the processes."""
    grad = torch.arange(1.0, 13.0).reshape(3, 4)
    p = nn.Parameter(distribute_tensor(torch.zeros(3, 4), mesh, placements))
    p.grad = distribute_tensor(grad, mesh, placements)
    return p


def placements(rank: int, mesh: DeviceMesh) -> None:
    """The norm is taken over the whole gradient, for any way of sharding."""
    grid = init_device_mesh("cpu", (1, WORLD))
    # Replicated over one dimension and sharded over the other is hybrid sharding.
    params = [
        parameter(mesh, [Replicate()]),
        parameter(mesh, [Shard(0)]),
        parameter(mesh, [Shard(1)]),
        parameter(grid, [Replicate(), Shard(0)]),
        nn.Parameter(torch.zeros(3, 4)),
    ]
    params[-1].grad = torch.arange(1.0, 13.0).reshape(3, 4)
    for p in params:
        # A fused or foreach optimiser would want one kind of tensor.
        AdaptiveLocalLR(SGD([p], lr=1.0, foreach=False), params=[p]).step()
    # The squares of 1 to 12 add up to 650.
    expected = -torch.arange(1.0, 13.0).reshape(3, 4) * 0.2 * math.sqrt(12 / 650)
    for p in params:
        torch.testing.assert_close(whole(p.detach()), expected, **TOLERANCE)
    # In one optimiser.
    for p in params:
        p.grad = torch.ones_like(p)
    AdaptiveLocalLR(SGD(params, lr=0.0, foreach=False), params=params).step()
    for p in params:
        torch.testing.assert_close(whole(p.grad), torch.full((3, 4), 0.2), **TOLERANCE)


def not_finite(rank: int, mesh: DeviceMesh) -> None:
    """A gradient that is not finite on one rank is an error on all, before a parameter changes."""
    p = parameter(mesh, [Shard(0)])
    assert isinstance(p.grad, DTensor)
    if rank == 1:
        p.grad.to_local()[0, 0] = math.inf
    with pytest.raises(GradientError, match=r"got inf for an adder weight of shape \[3, 4\]"):
        AdaptiveLocalLR(SGD([p], lr=1.0), params=[p]).step()
    assert whole(p.detach()).eq(0).all()
    later = AdaptiveLocalLR(SGD([p], lr=1.0), params=[p], deferred=True)
    later.step()
    assert later.largest_norm is not None
    assert later.largest_norm.item() == math.inf


CHECKS: tuple[Callable[[int, DeviceMesh], None], ...] = (ddp, fsdp, placements, not_finite)


def process(rank: int, store: str) -> None:
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD
    )
    mesh = init_device_mesh("cpu", (WORLD,))
    for check in CHECKS:
        check(rank, mesh)
    # A process that leaves while the other still talks to it can abort.
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.mark.processes
def test_two_processes_take_the_step_of_one(tmp_path: Path) -> None:
    # One start of two processes for all checks, because it takes seconds; the message names the
    # check that failed.
    spawn(process, (str(tmp_path / "store"),), nprocs=WORLD)
