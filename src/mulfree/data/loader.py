"""Batches in an order that depends on seed, epoch and position alone: runs can resume."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import closing

import numpy as np
import torch
from torch import Tensor

from mulfree.data.device_copy import SideStream, host_buffer, to_device
from mulfree.data.prefetch import Prefetcher
from mulfree.data.samples import ImageSet
from mulfree.data.transforms import Transform
from mulfree.errors import ConfigError

# Images of an epoch, whose order takes eight bytes each.
_MAX_IMAGES = 2**28
_Parts = Generator[tuple[Tensor, Tensor, Tensor], None, None]
"""Images, labels and random numbers of one batch after the other."""


def _generator(seed: int, epoch: int, stream: int) -> torch.Generator:
    """Generator of the order of an epoch (`stream` 0) or of its batch k (`stream` k + 1)."""
    mixed = np.random.SeedSequence([seed, epoch, stream]).generate_state(1, np.uint64)
    # Torch requires a signed 64-bit seed.
    return torch.Generator().manual_seed(int(mixed[0] >> np.uint64(1)))


class BatchLoader:
    """Iterable over the batches `(images, labels)` of one rank.

    The global batch `i` of `world_size` ranks equals the batch `i` of a single process with
    `batch_size * world_size`, images and augmentation included; rank `rank` has the `rank`-th
    consecutive part. Parts are disjoint, and every rank has the same number of batches. An
    incomplete last batch is divided evenly (sizes differ by at most one); with fewer images than
    ranks it is merged into the previous batch.

    A pass starts at the first batch of the epoch, or at the position of `load_state_dict`. A
    complete pass is followed by the next epoch, or by the one of `set_epoch`.

    Images on `device` stay there: order and random numbers of a whole pass are drawn at its start
    and copied at once, and a batch is a few asynchronous operations of the device. Images in a
    file, or in host memory with batches on a GPU, are read by a thread, `prefetch` batches ahead,
    and copied while the GPU computes. The thread ends with the pass, complete or not. (Capture CUDA
    graphs beside it with `capture_error_mode` "thread_local", as torch.compile does.)

    Args:
        image_set: Images and labels; `ImageSet.to` keeps them on a device.
        batch_size: Images per batch of this process.
        train: Shuffle, and leave out an incomplete last batch.
        repeat: Times that every image is in a pass.
        seed: Determines order and augmentation, together with the epoch.
        rank: Rank of this process.
        world_size: Number of ranks.
        drop_last: Leave out an incomplete last batch; default as `train`.
        transform: From uint8 images to the network's input; default: pixels over 255.
        device: Device of the batches and of the transforms.
        prefetch: Batches read ahead by the thread; 0 for no thread.

    Raises:
        ConfigError: An argument is out of range, or there is no batch.
    """

    def __init__(
        self,
        image_set: ImageSet,
        batch_size: int,
        *,
        train: bool,
        repeat: int = 1,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool | None = None,
        transform: Transform | None = None,
        device: torch.device | str = "cpu",
        prefetch: int = 2,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"BatchLoader: `batch_size` must be at least 1, got {batch_size}")
        if world_size < 1:
            raise ConfigError(f"BatchLoader: `world_size` must be at least 1, got {world_size}")
        if not 0 <= rank < world_size:
            raise ConfigError(f"BatchLoader: `rank` must lie in 0..{world_size - 1}, got {rank}")
        if not 0 <= seed < 2**32:
            raise ConfigError(f"BatchLoader: `seed` must lie in 0..{2**32 - 1}, got {seed}")
        if repeat < 1 or (repeat > 1 and len(image_set) * repeat > _MAX_IMAGES):
            raise ConfigError(
                f"BatchLoader: `repeat` must be at least 1, and at most {_MAX_IMAGES} images in a "
                f"pass, got {repeat} times {len(image_set)} images"
            )
        if prefetch < 0:
            raise ConfigError(f"BatchLoader: `prefetch` must not be negative, got {prefetch}")
        self.image_set = image_set
        self.batch_size = batch_size
        self.train = train
        self._count = len(image_set) * repeat
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.drop_last = train if drop_last is None else drop_last
        if transform is None:
            channels = image_set.images.shape[1]
            transform = Transform(mean=(0.0,) * channels, std=(1.0,) * channels)
        self.transform = transform
        self.device = torch.device(device)
        self.prefetch = prefetch
        self.epoch = 0
        self.batches_seen = 0
        self._resuming = False

        needed = batch_size * world_size if self.drop_last else world_size
        if self._count < needed:
            raise ConfigError(
                f"BatchLoader: `image_set` must hold at least {needed} images (batch_size "
                f"{batch_size}, world_size {world_size}, drop_last {self.drop_last}), "
                f"got {self._count}"
            )

    def __len__(self) -> int:
        full, rest = divmod(self._count, self.batch_size * self.world_size)
        return full if self.drop_last or rest < self.world_size else full + 1

    @property
    def sampler(self) -> BatchLoader:
        """The object whose `set_epoch` a training loop calls: the loader itself."""
        return self

    @property
    def batch_sampler(self) -> None:
        """None; Lightning reads it beside `sampler`."""
        return None

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next pass; a loaded position within that epoch is kept."""
        if epoch < 0:
            raise ConfigError(f"BatchLoader.set_epoch: `epoch` must not be negative, got {epoch}")
        if epoch != self.epoch or not self._resuming:
            self.epoch, self.batches_seen, self._resuming = epoch, 0, False

    def state_dict(self) -> dict[str, int]:
        """Position: the epoch and the number of its batches returned so far."""
        return {"epoch": self.epoch, "batch": self.batches_seen}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue the next pass after `state["batch"]` batches of `state["epoch"]`.

        Raises:
            ConfigError: The state is not a position of this loader.
        """
        epoch, batch = state.get("epoch"), state.get("batch")
        if (
            not (isinstance(epoch, int) and isinstance(batch, int))
            or epoch < 0
            or not 0 <= batch <= len(self)
        ):
            raise ConfigError(
                "BatchLoader.load_state_dict: `state` must hold an epoch and a batch in "
                f"0..{len(self)}, got {dict(state)}"
            )
        self.epoch, self.batches_seen, self._resuming = epoch, batch, True

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        # A generator runs from the first `next`: set_epoch and load_state_dict also apply to an
        # iterator created before their call.
        if self.batches_seen == len(self):
            self.epoch, self.batches_seen = self.epoch + 1, 0
        elif not self._resuming:
            self.batches_seen = 0
        self._resuming = False
        epoch, first = self.epoch, self.batches_seen
        on_host = self.image_set.images.device.type == "cpu"
        streamed = on_host and (self.image_set.mapped or self.device.type != "cpu")
        parts = self._streamed(epoch, first) if streamed else self._resident(epoch, first)
        with closing(parts):
            for batch, (images, labels, draws) in enumerate(parts, start=first):
                self.batches_seen = batch + 1
                yield self.transform(images, draws), labels

    def _resident(self, epoch: int, first: int) -> _Parts:
        """Parts of the batches from `first` on, gathered on the device of the images."""
        shares = list(self._shares(epoch, first))
        sizes = [len(rows) for rows, _ in shares]
        images, device = self.image_set.images, self.device
        rows = to_device(torch.cat([rows for rows, _ in shares]), images.device)
        draws = to_device(torch.cat([draws for _, draws in shares]), device)
        labels = to_device(self.image_set.labels[rows], device)
        split = zip(rows.split(sizes), labels.split(sizes), draws.split(sizes), strict=True)
        for part, its_labels, its_draws in split:
            yield to_device(images.index_select(0, part), device), its_labels, its_draws

    def _streamed(self, epoch: int, first: int) -> _Parts:
        """Parts of the batches from `first` on, prefetched and copied to the device."""
        side = SideStream(self.device)
        sent = (
            side.send(self._read(rows), self.image_set.labels[rows], draws)
            for rows, draws in self._shares(epoch, first)
        )
        with closing(Prefetcher(sent, self.prefetch) if self.prefetch else sent) as ahead:
            for part in ahead:
                images, labels, draws = side.receive(part)
                yield images, labels, draws

    def _read(self, rows: Tensor) -> Tensor:
        """Images `rows`, in host memory."""
        self.image_set.verify(rows)
        images = self.image_set.images
        read = host_buffer((len(rows), *images.shape[1:]), images.dtype, self.device)
        # numpy: torch's threads would compete with those that compute. Every row exists, and
        # "clip" makes numpy write to the buffer directly.
        np.take(images.numpy(), rows.numpy(), axis=0, out=read.numpy(), mode="clip")
        return read

    def _order(self, epoch: int) -> Tensor:
        """Image indices in the order of the epoch."""
        if self.train:
            order = torch.randperm(self._count, generator=_generator(self.seed, epoch, 0))
        else:
            order = torch.arange(self._count)
        return order % len(self.image_set)

    def _shares(self, epoch: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Image indices and random numbers of this rank's parts of the batches from `first` on.

        Computed on the CPU, from seed, epoch and batch alone.
        """
        order = self._order(epoch)
        size = self.batch_size * self.world_size
        for batch in range(first, len(self)):
            start = batch * size
            stop = start + size
            if batch + 1 == len(self) and not self.drop_last:
                stop = len(order)
            count = stop - start
            low = count * self.rank // self.world_size
            high = count * (self.rank + 1) // self.world_size
            # Every rank draws for the whole global batch and uses its part.
            draws = self.transform.draw(count, _generator(self.seed, epoch, batch + 1))
            yield order[start + low : start + high], draws[low:high]
