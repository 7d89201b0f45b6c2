"""Launches and availability of Triton kernels, for all operators.

Only the modules of kernels import Triton; they are imported on first use.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass, field
from typing import Any

import torch

# The first generation with cp.async and bfloat16 arithmetic.
MIN_CAPABILITY = (8, 0)

# Multiprocessors of an H100, assumed where there is no device, as in ahead-of-time compilation.
_MULTIPROCESSORS = 132


@dataclass(frozen=True, kw_only=True)
class Launch:
    """A kernel with its grid and arguments; calling it launches.

    Attributes:
        kernel: A function under `triton.jit`.
        grid: Number of programs along each axis.
        arguments: Run-time arguments in the kernel's order: tensors and numbers.
        constants: Arguments that are compiled in.
        warps: Warps of a program.
        stages: Depth of the pipeline from global to shared memory.
    """

    kernel: Any
    grid: tuple[int, int, int]
    arguments: dict[str, torch.Tensor | int | float]
    constants: dict[str, Any] = field(default_factory=dict)
    warps: int = 4
    stages: int = 1

    def __call__(self) -> None:
        """Launch on the current stream of the tensors' device."""
        self.kernel[self.grid](
            **self.arguments, **self.constants, num_warps=self.warps, num_stages=self.stages
        )


def interpreted() -> bool:
    """Return True if kernels run in Triton's interpreter on the CPU, for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def missing(device: torch.device) -> str | None:
    """Return the reason that Triton kernels cannot run on a device; None if they can."""
    if importlib.util.find_spec("triton") is None:
        return "the GPU kernels need triton: pip install mulfree[gpu]"
    if device.type == "cpu":
        return None if interpreted() else "Triton kernels run on a GPU"
    if device.type != "cuda":
        return f"Triton kernels run on CUDA devices, not on {device.type}"
    capability = torch.cuda.get_device_capability(device)
    if torch.version.hip is None and capability < MIN_CAPABILITY:
        return (
            f"the GPU kernels need compute capability {'.'.join(map(str, MIN_CAPABILITY))}, "
            f"{torch.cuda.get_device_name(device)} has {'.'.join(map(str, capability))}"
        )
    return None


def multiprocessors(device: torch.device) -> int:
    """Return the number of multiprocessors of a device."""
    if device.type != "cuda":
        return _MULTIPROCESSORS
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
