"""The device that is measured on: its clock, its number formats, and work replayed as a graph."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal, get_args

import torch

from mulfree.environment import gpu

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
"""fp32: without TF32; tf32: float32 tensors whose products are rounded to TF32; or half floats."""

PRECISIONS: tuple[Precision, ...] = get_args(Precision)

_DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}

_WARM_UP = 3


def dtype_of(precision: Precision) -> torch.dtype:
    """The dtype of tensors in a number format."""
    return _DTYPES[precision]


def clock_of(device: torch.device) -> Callable[[], float]:
    """A clock in seconds that is read when the device has done all it was asked to do."""
    if device.type != "cuda":
        return time.perf_counter

    def read() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return read


def sm_clock_hz(device: torch.device) -> float | None:
    """The highest clock of the device's multiprocessors; None where it is not known."""
    facts = gpu() if device.type == "cuda" else None
    megahertz = None if facts is None else facts["sm_clock_mhz"]
    return None if megahertz is None else megahertz * 1e6


@contextlib.contextmanager
def computing_in(precision: Precision) -> Iterator[None]:
    """TF32 as the number format says, and as it was afterwards."""
    backends: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = precision == "tf32"
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value


@contextlib.contextmanager
def tuned_convolutions() -> Iterator[None]:
    """Let cuDNN try its algorithms on every new shape and keep the fastest."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def captured(
    make: Callable[[], Callable[[], object]], device: torch.device
) -> Callable[[], object]:
    """What `make` gives, as a CUDA graph: its kernels are replayed without the host's share.

    Elsewhere than on CUDA it is what `make` gives. `make` is called on the stream that is captured,
    so that a backward pass runs there too; its result is called a few times first, so that
    compilers, tuners and allocators have done their work.

    Raises:
        RuntimeError: Something cannot be captured, such as waiting for the device.
    """
    if device.type != "cuda":
        return make()
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        run = make()
        for _ in range(_WARM_UP):
            run()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        run()
    # The graph does not keep the tensors alive that it reads: `run` does.
    return partial(_replay, graph, run)


def _replay(graph: torch.cuda.CUDAGraph, run: Callable[[], object]) -> None:
    graph.replay()
