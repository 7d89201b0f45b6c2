"""How the processes of a run share the work: copies of everything, or a part of it in each."""

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
    name: Literal["auto", "ddp", "fsdp"], world_size: int
) -> DDPStrategy | Literal["auto"]:
    """What Lightning calls a strategy, for `trainer.strategy` and a number of processes.

    A single process has nobody to share with, so every name means the same there.
    """
    if world_size == 1:
        return "auto"
    if name == "fsdp":
        return ShardedStrategy()
    # The old name is deprecated in torch 2.13, which the new one came with.
    new = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    buffers: dict[str, Any] = {"forward_sync_buffers" if new else "broadcast_buffers": False}
    return DDPStrategy(
        # A gradient is a view of the buffer that is exchanged: one copy of all gradients less.
        gradient_as_bucket_view=True,
        # It would save the search for unused parameters, which is off anyway, and does not go
        # together with `no_sync`, which accumulation needs.
        static_graph=False,
        # Running statistics are those of the first process. The others learn them before they are
        # used, in `RunModule.on_validation_start`, and not in front of every step.
        **buffers,
    )


class ShardedStrategy(DDPStrategy):
    """Fully sharded data parallel (FSDP2): parameters, gradients and optimiser state are divided.

    Every process has a part of the rows of every parameter, `torch.distributed.tensor.DTensor`s of
    `torch.distributed.fsdp.fully_shard`. The processes are those of DDP, and so is the arithmetic:
    a gradient is the mean over the processes. Under mixed precision autocast casts the weights
    where an operation wants them, as it does in a single process, and gradients are summed up in
    float32; a `MixedPrecisionPolicy` would round the weights of whole blocks, also those of their
    normalisation.

    Unlike Lightning's own strategies for sharding it runs on CPUs too, and its checkpoints are
    read without running code from them.
    """

    def configure_ddp(self) -> None:
        """Divides the parameters in place of wrapping the module."""
        assert isinstance(self.model, RunModule)
        shard(self.model, init_device_mesh(self.root_device.type, (self.world_size,)))

    def on_validation_start(self) -> None:
        """Gathers the networks whose parts are called, which would do so were they called whole."""
        for part in self._pieced():
            part.unshard()

    def on_validation_end(self) -> None:
        """Divides them again."""
        for part in self._pieced():
            part.reshard()

    def _pieced(self) -> list[FSDPModule]:
        assert isinstance(self.model, RunModule)
        if not self.model.method.calls_submodules:
            return []
        return [part for part in self.model.modules() if isinstance(part, FSDPModule)]

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None
    ) -> None:
        """Writes a directory, every process its part of it."""
        # Only the first process knows the directory of a new run.
        save_sharded(checkpoint, Path(self.broadcast(filepath)))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Takes this process's part of the state of the optimisers."""
        states = [
            _sharded_state(optimizer, state)
            for optimizer, state in zip(
                self.optimizers, checkpoint["optimizer_states"], strict=True
            )
        ]
        super().load_optimizer_state_dict({"optimizer_states": states})


def shard(module: RunModule, mesh: DeviceMesh) -> None:
    """Divides the parameters of a run among the processes of `mesh`, in place.

    One group, gathered for its forward and its backward and then freed again, is a block, or a
    layer outside of the blocks; what is left, such as the normalisation of the stem, belongs to
    the network. The moving average is divided in the same way. Of a task that calls the modules of
    its network itself all is one group.
    """
    groups = [] if module.ema is None else [module.ema.module]
    if not module.method.calls_submodules:
        networks = (*module.method.children(), *groups)
        groups = [group for network in networks for group in (*_groups(network), network)]
    for group in (*groups, module.method):
        _fully_shard(group, mesh)


def _groups(network: nn.Module) -> Iterator[nn.Module]:
    """The blocks of a network: its children, those of a `Sequential` in its place."""
    for child in network.children():
        if isinstance(child, nn.Sequential):
            yield from _groups(child)
        elif any(p.ndim > 1 for p in child.parameters()):
            yield child


def _fully_shard(module: nn.Module, mesh: DeviceMesh) -> None:
    marked = [name for name, p in module.named_parameters() if uses_adaptive_local_lr(p)]
    fully_shard(module, mesh=mesh)
    for name in marked:
        # It is another parameter than before.
        mark_adaptive_local_lr(module.get_parameter(name))


def _sharded_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> dict[str, Any]:
    """The state of an optimiser with tensors divided like the parameters they belong to."""
    params = [p for group in optimizer.param_groups for p in group["params"]]

    def divided(value: Any, param: Tensor) -> Any:
        if not isinstance(value, Tensor) or value.shape != param.shape:
            return value
        assert isinstance(param, DTensor)
        # Every process has read the whole tensor, so there is nothing to send.
        return distribute_tensor(
            value.to(param.device), param.device_mesh, param.placements, src_data_rank=None
        )

    entries = {
        index: {key: divided(value, params[index]) for key, value in entry.items()}
        for index, entry in state["state"].items()
    }
    return {**state, "state": entries}
