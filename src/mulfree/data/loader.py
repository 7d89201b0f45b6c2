"""Batches in an order that is a function of seed, epoch and position, so that runs can resume."""

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

_Parts = Generator[tuple[Tensor, Tensor, Tensor], None, None]
"""Images, labels and chance of one batch after the other."""


def _generator(seed: int, epoch: int, stream: int) -> torch.Generator:
    """Random numbers for one purpose: `stream` 0 is an epoch's order, k + 1 its batch k."""
    mixed = np.random.SeedSequence([seed, epoch, stream]).generate_state(1, np.uint64)
    # torch takes a signed 64-bit seed.
    return torch.Generator().manual_seed(int(mixed[0] >> np.uint64(1)))


class BatchLoader:
    """Iterates over one process's batches `(images, labels)` of an image set.

    The global batch `i` of `world_size` processes is the batch `i` that a single process with
    `batch_size * world_size` would get, same images and same augmentation; process `rank` has the
    `rank`-th consecutive part of it. Parts are disjoint and every process gets the same number
    of batches. A last batch that is not full is divided evenly (sizes differ by at most one); if it
    holds fewer images than there are processes, it is added to the batch before it.

    A pass starts at the first batch of the epoch, unless `load_state_dict` set another position.
    After a complete pass the next one is the next epoch, unless `set_epoch` says otherwise.

    Images on `device` stay there: order and chance of a whole pass are drawn at its start and
    copied at once, and a batch is a few operations of the device for which the host does not wait.
    Images that lie in a file, or in host memory while the batches are wanted on a GPU, are read by
    a thread, `prefetch` batches ahead, and copied while the GPU computes. The thread ends with the
    pass, or when the pass is given up. (Capture CUDA graphs beside it with `capture_error_mode`
    "thread_local", as torch.compile does.)

    Args:
        image_set: Images and labels; `ImageSet.to` keeps them on a device.
        batch_size: Images per batch of this process.
        train: Shuffle, and leave out the last batch where it is not full.
        seed: Together with the epoch, decides order and augmentation.
        rank: Number of this process.
        world_size: Number of processes.
        drop_last: Leave out the last batch where it is not full; default as `train`.
        transform: Makes the network's input of uint8 images; default: pixels over 255.
        device: Where the batches are wanted; transforms run there.
        prefetch: Batches read ahead where a thread reads; 0 for no thread.

    Raises:
        ConfigError: If an argument is out of range or no batch could be made.
    """

    def __init__(
        self,
        image_set: ImageSet,
        batch_size: int,
        *,
        train: bool,
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
        if prefetch < 0:
            raise ConfigError(f"BatchLoader: `prefetch` must not be negative, got {prefetch}")
        self.image_set = image_set
        self.batch_size = batch_size
        self.train = train
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
        if len(image_set) < needed:
            raise ConfigError(
                f"BatchLoader: `image_set` must hold at least {needed} images (batch_size "
                f"{batch_size}, world_size {world_size}, drop_last {self.drop_last}), "
                f"got {len(image_set)}"
            )

    def __len__(self) -> int:
        full, rest = divmod(len(self.image_set), self.batch_size * self.world_size)
        return full if self.drop_last or rest < self.world_size else full + 1

    @property
    def sampler(self) -> BatchLoader:
        """The object whose `set_epoch` a training loop calls: the loader itself."""
        return self

    @property
    def batch_sampler(self) -> None:
        """None; a loop that looks at `sampler` looks here too."""
        return None

    def set_epoch(self, epoch: int) -> None:
        """Make the next pass one over `epoch`; keeps a loaded position within that epoch."""
        if epoch < 0:
            raise ConfigError(f"BatchLoader.set_epoch: `epoch` must not be negative, got {epoch}")
        if epoch != self.epoch or not self._resuming:
            self.epoch, self.batches_seen, self._resuming = epoch, 0, False

    def state_dict(self) -> dict[str, int]:
        """Position: the epoch and how many of its batches have been handed out."""
        return {"epoch": self.epoch, "batch": self.batches_seen}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Make the next pass go on after `state["batch"]` batches of `state["epoch"]`.

        Raises:
            ConfigError: If the state is not a position of this loader.
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
        # A generator: nothing happens before the first batch is asked for, so set_epoch and
        # load_state_dict also reach an iterator that was made before they were called.
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
            for batch, (images, labels, chance) in enumerate(parts, start=first):
                self.batches_seen = batch + 1
                yield self.transform(images, chance), labels

    def _resident(self, epoch: int, first: int) -> _Parts:
        """Parts of the batches from `first` on, gathered where the images are."""
        shares = list(self._shares(epoch, first))
        sizes = [len(rows) for rows, _ in shares]
        images, device = self.image_set.images, self.device
        rows = to_device(torch.cat([rows for rows, _ in shares]), images.device)
        chance = to_device(torch.cat([chance for _, chance in shares]), device)
        labels = to_device(self.image_set.labels[rows], device)
        split = zip(rows.split(sizes), labels.split(sizes), chance.split(sizes), strict=True)
        for part, its_labels, its_chance in split:
            yield to_device(images.index_select(0, part), device), its_labels, its_chance

    def _streamed(self, epoch: int, first: int) -> _Parts:
        """Parts of the batches from `first` on, read and sent to the device ahead."""
        side = SideStream(self.device)
        sent = (
            side.send(self._read(rows), self.image_set.labels[rows], chance)
            for rows, chance in self._shares(epoch, first)
        )
        with closing(Prefetcher(sent, self.prefetch) if self.prefetch else sent) as ahead:
            for part in ahead:
                images, labels, chance = side.receive(part)
                yield images, labels, chance

    def _read(self, rows: Tensor) -> Tensor:
        """The images numbered `rows`, in host memory."""
        self.image_set.verify(rows)
        images = self.image_set.images
        read = host_buffer((len(rows), *images.shape[1:]), images.dtype, self.device)
        # numpy, because torch's threads would take the processor from those that compute. "clip"
        # changes nothing, as every row exists, but lets numpy write to the buffer directly.
        np.take(images.numpy(), rows.numpy(), axis=0, out=read.numpy(), mode="clip")
        return read

    def _order(self, epoch: int) -> Tensor:
        """Numbers of the images in the order of the epoch."""
        count = len(self.image_set)
        if not self.train:
            return torch.arange(count)
        return torch.randperm(count, generator=_generator(self.seed, epoch, 0))

    def _shares(self, epoch: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Image numbers and chance of this process's parts of the global batches from `first` on.

        On the CPU, and a function of seed, epoch and batch.
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
            # Chance for the whole global batch is drawn by every process, and a part of it used.
            chance = self.transform.draw(count, _generator(self.seed, epoch, batch + 1))
            yield order[start + low : start + high], chance[low:high]
