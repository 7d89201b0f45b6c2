"""Strategies for several processes: replicated (DDP) or sharded (FSDP2)."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from mulfree.operators.operator import mark_adaptive_local_lr, uses_adaptive_local_lr
from mulfree.training.run.module import RunModule
from mulfree.training.run.shards import save_sharded


def build_strategy(
    name: Literal["auto", "ddp", "fsdp"], world_size: int, *, find_unused: bool = False
) -> DDPStrategy | Literal["auto"]:
    """Return the strategy of Lightning for `trainer.strategy` and a number of processes.

    With a single process every name means the same.

    Args:
        name: The name.
        world_size: Number of processes.
        find_unused: Search every step for parameters that the loss does not depend on, for which
            DDP would wait. They stay as they are, as with a single process.
    """
    if world_size == 1:
        return "auto"
    if name == "fsdp":
        return ShardedStrategy()
    # torch 2.13 added the new name and deprecated the old one.
    new = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    buffers: dict[str, Any] = {"forward_sync_buffers" if new else "broadcast_buffers": False}
    return DDPStrategy(
        # Gradients are views of the communication buckets: saves one copy of all gradients.
        gradient_as_bucket_view=True,
        find_unused_parameters=find_unused,
        # It would only save that search, and is incompatible with `no_sync`, which accumulation
        # needs.
        static_graph=False,
        # Running statistics are taken from rank 0. They are broadcast before they are used, in
        # `RunModule.on_validation_start`, not before every step.
        **buffers,
    )


class ShardedStrategy(DDPStrategy):
    """Fully sharded data parallel (FSDP2): parameters, gradients and optimiser state are sharded.

    Every rank holds some rows of every parameter, as a `torch.distributed.tensor.DTensor` of
    `torch.distributed.fsdp.fully_shard`. Processes and arithmetic are as with DDP: a gradient is
    the mean over ranks. Under mixed precision autocast casts the weights for each operation, as in
    a single process, and gradients are summed in float32; a `MixedPrecisionPolicy` would round the
    weights of whole blocks, batch norms included.

    Unlike Lightning's own sharding strategies it runs on CPUs too, and its checkpoints are read
    without running code from them.
    """

    def configure_ddp(self) -> None:
        """Shard the parameters instead of wrapping the module."""
        assert isinstance(self.model, RunModule)
        shard(self.model, init_device_mesh(self.root_device.type, (self.world_size,)))

    def on_validation_start(self) -> None:
        """Gather networks whose submodules are called: no call of the network gathers them."""
        for part in self._called_by_submodules():
            part.unshard()

    def on_validation_end(self) -> None:
        """Shard them again."""
        for part in self._called_by_submodules():
            part.reshard()

    def _called_by_submodules(self) -> list[FSDPModule]:
        assert isinstance(self.model, RunModule)
        if not self.model.method.is_one_group:
            return []
        return [part for part in self.model.modules() if isinstance(part, FSDPModule)]

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None
    ) -> None:
        """Write a directory; every rank writes its part."""
        # The directory of a new run is chosen by rank 0.
        save_sharded(checkpoint, Path(self.broadcast(filepath)))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Load this rank's rows of the optimiser state."""
        states = [
            _sharded_state(optimizer, state)
            for optimizer, state in zip(
                self.optimizers, checkpoint["optimizer_states"], strict=True
            )
        ]
        super().load_optimizer_state_dict({"optimizer_states": states})


def shard(module: RunModule, mesh: DeviceMesh) -> None:
    """Shard the parameters of a run over the ranks of `mesh`, in place.

    One group, gathered for its forward and backward and then freed, is a block, or a layer outside
    the blocks; the remaining parameters, such as the batch norm of the stem, are a group of the
    network. The moving average is sharded in the same way. A method that calls the submodules of
    its network, or whose network does so with one inside, is one group.
    """
    groups = [] if module.ema is None else [module.ema.module]
    if not module.method.is_one_group:
        networks = (*module.method.children(), *groups)
        groups = [group for network in networks for group in (*_groups(network), network)]
    for group in (*groups, module.method):
        _fully_shard(group, mesh)


def _groups(network: nn.Module) -> Iterator[nn.Module]:
    """Blocks of a network: its children, with a `Sequential` replaced by its own children."""
    for child in network.children():
        if isinstance(child, nn.Sequential):
            yield from _groups(child)
        elif any(p.ndim > 1 for p in child.parameters()):
            yield child


def _fully_shard(module: nn.Module, mesh: DeviceMesh) -> None:
    marked = [name for name, p in module.named_parameters() if uses_adaptive_local_lr(p)]
    fully_shard(module, mesh=mesh)
    for name in marked:
        # Sharding has replaced the parameter.
        mark_adaptive_local_lr(module.get_parameter(name))


def _sharded_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> dict[str, Any]:
    """Optimiser state with tensors sharded like their parameters."""
    params = [p for group in optimizer.param_groups for p in group["params"]]

    def sharded(value: Any, param: Tensor) -> Any:
        if not isinstance(value, Tensor) or value.shape != param.shape:
            return value
        assert isinstance(param, DTensor)
        # Every rank has read the whole tensor, so nothing is sent.
        return distribute_tensor(
            value.to(param.device), param.device_mesh, param.placements, src_data_rank=None
        )

    entries = {
        index: {key: sharded(value, params[index]) for key, value in entry.items()}
        for index, entry in state["state"].items()
    }
    return {**state, "state": entries}
