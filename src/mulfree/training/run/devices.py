"""Devices and processes of a run."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

import torch

from mulfree._triton import missing as triton_missing
from mulfree.errors import ConfigError, quoted
from mulfree.training.run.config import TrainConfig

_PROCESSES = re.compile(r"[0-9]{1,9}")


def is_main_process() -> bool:
    """Return whether this process, of rank 0, writes the files and the output of the run."""
    return rank() == 0


@dataclass(frozen=True, kw_only=True)
class Place:
    """Device of a process, and the number of processes."""

    accelerator: str
    local_devices: int
    nodes: int

    @property
    def world_size(self) -> int:
        """Processes of all nodes."""
        return self.local_devices * self.nodes

    @property
    def device(self) -> torch.device:
        """Device of this process."""
        if self.accelerator == "cpu":
            return torch.device("cpu")
        return torch.device("cuda", _environment_number("LOCAL_RANK", 0))


def place_run(config: TrainConfig) -> Place:
    """Devices of a run.

    Raises:
        ConfigError: The machine does not have them, or the batch cannot be divided among them.
    """
    settings = config.trainer
    accelerator = settings.accelerator
    usable = torch.cuda.is_available()
    if accelerator == "auto":
        accelerator = "cuda" if usable else "cpu"
    if accelerator == "cuda" and not usable:
        where = "on a machine without a usable GPU"
        if torch.version.cuda is None and torch.version.hip is None:
            where = "with a torch that was built without CUDA"
        raise ConfigError(f"train: `trainer.accelerator` must be cpu {where}, got cuda")
    # torchrun has already started the processes, so its number counts.
    local = _environment_number("LOCAL_WORLD_SIZE", settings.devices, least=1)
    nodes = max(1, _environment_number("WORLD_SIZE", local, least=1) // local)
    for name, processes in (("LOCAL_RANK", local), ("RANK", local * nodes)):
        if _environment_number(name, 0) >= processes:
            raise ConfigError(
                f"train: environment variable `{name}` must be below the {processes} processes "
                f"of LOCAL_WORLD_SIZE and WORLD_SIZE, got {os.environ[name]}"
            )
    available = torch.cuda.device_count() if accelerator == "cuda" else os.cpu_count() or 1
    if local > available:
        kind = "CUDA devices" if accelerator == "cuda" else "processors"
        raise ConfigError(
            f"train: `trainer.devices` must be at most the {available} {kind} of this machine, "
            f"got {local}"
        )
    if accelerator == "cuda" and config.model.operator != "conv2d":
        # There is no fast kernel for double precision anyway.
        devices = range(local if settings.precision != "64-true" else 0)
        reasons = [triton_missing(torch.device("cuda", device)) for device in devices]
        if any(reasons):
            raise ConfigError(
                f"train: `trainer.accelerator` must be cpu for {config.model.operator} here, as "
                f"{next(filter(None, reasons))}, got {settings.accelerator}"
            )
    if config.data.batch_size % (local * nodes):
        raise ConfigError(
            f"train: `data.batch_size` must be a multiple of the {local * nodes} processes that "
            f"share it, got {config.data.batch_size}"
        )
    if settings.precision == "16-mixed" and accelerator == "cpu":
        raise ConfigError(
            "train: `trainer.precision` must be 32-true, 64-true or bf16-mixed on a CPU, "
            "got 16-mixed"
        )
    return Place(accelerator=accelerator, local_devices=local, nodes=nodes)


def rank() -> int:
    """Rank of this process, from the environment of its launcher."""
    return _environment_number("RANK", _environment_number("LOCAL_RANK", 0))


def _environment_number(name: str, default: int, least: int = 0) -> int:
    """Number in the environment that torchrun or another launcher set, or else `default`."""
    text = os.environ.get(name, "")
    if not text:
        return default
    if not _PROCESSES.fullmatch(text) or int(text) < least:
        raise ConfigError(
            f"train: environment variable `{name}` must be a whole number >= {least}, "
            f"got {quoted(text)}"
        )
    return int(text)
