"""Device of a benchmark: clock, number formats, CUDA graphs."""

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

DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}

_WARM_UP = 3


def clock_of(device: torch.device) -> Callable[[], float]:
    """Clock in seconds, read when all work of the device is done."""
    if device.type != "cuda":
        return time.perf_counter

    def read() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return read


def sm_clock_hz(device: torch.device) -> float | None:
    """Highest clock of the device's multiprocessors; None where it cannot be read."""
    facts = gpu() if device.type == "cuda" else None
    megahertz = None if facts is None else facts["sm_clock_mhz"]
    return None if megahertz is None else megahertz * 1e6


@contextlib.contextmanager
def computing_in(precision: Precision) -> Iterator[None]:
    """Enable TF32 for the number format "tf32" alone; restored afterwards."""
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
    """Capture the function that `make` returns as a CUDA graph, replayed without the host.

    On other devices the function itself. `make` is called on the captured stream, so that a
    backward pass runs there too. The function runs a few times first: compilers, tuners and
    allocators finish their work.

    Raises:
        RuntimeError: Work that cannot be captured, such as waiting for the device.
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
