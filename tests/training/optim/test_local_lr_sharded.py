"""The step of two processes on gradients that are divided between them."""

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
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, distribute_tensor
from torch.multiprocessing.spawn import spawn
from torch.optim import SGD

from mulfree.training import AdaptiveLocalLR
from mulfree.training.optim.local_lr import GradientError

WORLD = 2
TOLERANCE: dict[str, Any] = {"rtol": 1e-6, "atol": 1e-6}

pytestmark = pytest.mark.skipif((os.cpu_count() or 1) < WORLD, reason="needs two processors")


def whole(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


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
    # In one optimiser, with a parameter of which the second process has no row.
    single = nn.Parameter(distribute_tensor(torch.zeros(1, 4), mesh, [Shard(0)]))
    params.append(single)
    for p in params:
        p.grad = torch.ones_like(p)
    AdaptiveLocalLR(SGD(params, lr=0.0, foreach=False), params=params).step()
    for p in params:
        torch.testing.assert_close(whole(p.grad), torch.full(p.shape, 0.2), **TOLERANCE)


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


CHECKS: tuple[Callable[[int, DeviceMesh], None], ...] = (placements, not_finite)


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
