"""Asynchronous copies from host memory to a device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def host_buffer(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Uninitialised host memory, pinned if `device` is a GPU, `shape`."""
    return torch.empty(shape, dtype=dtype, pin_memory=device.type == "cuda")


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy `tensor` to `device`, asynchronously on the current stream of a GPU."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        # Torch reuses pinned memory only after the copy.
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@dataclass(frozen=True, kw_only=True)
class Sent:
    """Tensors being copied to a device.

    Attributes:
        tensors: On the device; valid for a stream that has waited for `arrived`.
        arrived: End of the copy; None for synchronous copies.
    """

    tensors: tuple[Tensor, ...]
    arrived: torch.cuda.Event | None


class SideStream:
    """Stream for copies that overlap with computation on a GPU; plain copies elsewhere."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def send(self, *tensors: Tensor) -> Sent:
        """Start the copies. May be called in another thread than `receive`."""
        if self._stream is None:
            return Sent(tensors=tuple(to_device(t, self._device) for t in tensors), arrived=None)
        # Also selects the GPU for this thread, required by "cuda" without an index.
        with torch.cuda.stream(self._stream):
            copies = tuple(to_device(tensor, self._stream.device) for tensor in tensors)
            return Sent(tensors=copies, arrived=self._stream.record_event())

    def receive(self, sent: Sent) -> tuple[Tensor, ...]:
        """Tensors of `send` for the current stream, which waits for the copy; the host does not."""
        if sent.arrived is not None:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(sent.arrived)
            for tensor in sent.tensors:
                # The side stream owns the memory and must not reuse it before this stream is done.
                tensor.record_stream(stream)
        return sent.tensors
