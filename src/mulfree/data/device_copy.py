"""Copies from host memory to a device for which neither of them waits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def host_buffer(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Unwritten host memory `shape` from which `to_device` copies without a detour."""
    return torch.empty(shape, dtype=dtype, pin_memory=device.type == "cuda")


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`. A copy to a GPU is queued on its current stream, not waited for."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        # torch keeps pinned memory from being used again before the copy is done.
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@dataclass(frozen=True, kw_only=True)
class Sent:
    """Tensors on their way to a device.

    Attributes:
        tensors: On the device; complete for a stream that has waited for `arrived`.
        arrived: None where there is nothing to wait for.
    """

    tensors: tuple[Tensor, ...]
    arrived: torch.cuda.Event | None


class SideStream:
    """Copies to `device` while it computes; on other devices than GPUs a plain copy."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def send(self, *tensors: Tensor) -> Sent:
        """Start the copies. May be called in another thread than `receive`."""
        if self._stream is None:
            return Sent(tensors=tuple(to_device(t, self._device) for t in tensors), arrived=None)
        # Makes the stream's GPU the thread's own one too, which "cuda" without a number needs.
        with torch.cuda.stream(self._stream):
            copies = tuple(to_device(tensor, self._stream.device) for tensor in tensors)
            return Sent(tensors=copies, arrived=self._stream.record_event())

    def receive(self, sent: Sent) -> tuple[Tensor, ...]:
        """What was sent, for use on the current stream; the GPU waits for it, the host does not."""
        if sent.arrived is not None:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(sent.arrived)
            for tensor in sent.tensors:
                # The memory belongs to the side stream, which must not fill it anew too soon.
                tensor.record_stream(stream)
        return sent.tensors
