"""Guard of a run: finite losses, gradients and weights, and a stop that all ranks agree on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor

from mulfree.errors import TrainingError
from mulfree.training.optim.local_lr import readable


class Guard:
    """Checks that numbers of a run are finite, and agrees with the other ranks on a stop.

    On a CPU numbers are checked at every step, before a parameter changes. Reading a number from an
    accelerator waits for it, so they are read at the first step, every `log_every` steps and before
    a checkpoint: a number that is not finite may reach the parameters, but never a checkpoint.

    Args:
        log_every: Steps between two reads on an accelerator.
        position: Words for a step in an error.

    Attributes:
        stopping: Whether all ranks have agreed to save and stop.
        loss: The last loss that was read.
    """

    def __init__(self, log_every: int, position: Callable[[int], str]) -> None:
        self.stopping = False
        self.loss = math.nan
        self._log_every = log_every
        self._position = position
        self._stop_requested = False
        # Numbers that were not read yet, with their step and name.
        self._unread: list[tuple[int, str, Tensor]] = []

    def request_stop(self) -> None:
        """Make the run save and stop soon; `stopping` is set once all ranks have agreed."""
        self._stop_requested = True

    def record(self, step: int, name: str, value: Tensor) -> None:
        """Keep a number to be checked at the next read."""
        self._unread.append((step, name, value))

    def watch(self, step: int, loss: Tensor, world_size: int) -> None:
        """Record the loss of a step, and read what was recorded if it is time to.

        Raises:
            TrainingError: A recorded number is not finite, on any rank.
        """
        self.record(step, "loss", loss)
        if world_size == 1:
            self.stopping = self._stop_requested
        often = readable(loss.device) or math.isnan(self.loss)
        if often or step % self._log_every == 0:
            self._read(world_size)

    def check(self, step: int, state: Mapping[str, Tensor], world_size: int) -> None:
        """Refuse a state with a number that is not finite.

        Raises:
            TrainingError: A recorded number or a weight is not finite, on any rank.
        """
        self._read(world_size)
        state = {k: v for k, v in state.items() if v.is_floating_point()}
        bad = torch.stack([~local(tensor).isfinite().all() for tensor in state.values()]).int()
        if world_size > 1:
            # Each rank has its own rows of a sharded weight, but all have to raise together.
            distributed.all_reduce(bad, distributed.ReduceOp.MAX)
        for name, found in zip(state, bad.tolist(), strict=True):
            if found:
                raise TrainingError(
                    f"train: `{name}` must stay finite, but is not {self._position(step)}"
                )

    def _read(self, world_size: int) -> None:
        if not self._unread:
            return
        steps, names, tensors = zip(*self._unread, strict=True)
        self._unread = []
        values = torch.stack([tensor.double() for tensor in tensors]).tolist()
        seen = list(zip(steps, names, values, strict=True))
        self.loss = next((v for _, name, v in reversed(seen) if name == "loss"), self.loss)
        bad = next((entry for entry in seen if not math.isfinite(entry[2])), None)
        first = math.inf if bad is None else bad[0]
        if world_size > 1:
            # All ranks must raise together; otherwise the rest deadlock in the next collective.
            flags = torch.tensor(
                [first, -float(self._stop_requested)],
                dtype=torch.float64,
                device=tensors[0].device,
            )
            distributed.all_reduce(flags, distributed.ReduceOp.MIN)
            first, stop = flags.tolist()
            self.stopping = stop < 0
        if first < math.inf:
            what = "`loss` must be finite, but is not in another process"
            if bad is not None and bad[0] == first:
                _, name, value = bad
                wanted = "be finite" if name == "loss" else "have a finite norm"
                what = f"`{name}` must {wanted}, got {value}"
            raise TrainingError(f"train: {what} {self._position(int(first))}")


def local(tensor: Tensor) -> Tensor:
    """Rows of a sharded tensor on this rank; any other tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
