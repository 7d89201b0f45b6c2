"""One way of running a network, and the memory that it takes in a process of its own.

As a program, which does not load torch by itself, it prints the memory that a candidate takes:
`python -m mulfree.bench.candidate_process JSON`.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mulfree.bench.memory import peak_memory

if TYPE_CHECKING:
    from torch import nn

    from mulfree.runtime.source import Source

LIBRARIES = {
    "mulfree": "mulfree.runtime",
    "torch": "mulfree.models",
    "onnxruntime": "onnxruntime",
}
"""Module that a program of each library imports."""

_RUNS = 3


def pixels(shape: Sequence[int]) -> NDArray[np.uint8]:
    """The images that networks of the runtime run on, `[N, C, H, W]`."""
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def runner(library: str, path: str, shape: Sequence[int], threads: int) -> Callable[[], Any]:
    """Function that runs the network of a file on fixed random images and returns the logits.

    Every library gets its fastest input: the runtime pixels, the others normalised floats, in
    channels_last where there is a choice.

    Args:
        library: One of `LIBRARIES`.
        path: An artifact, a file of `save_weights`, or an ONNX file.
        shape: N, C, H, W.
        threads: Threads of one run.
    """
    if library == "mulfree":
        return session_runner(path, shape, threads)
    if library == "torch":
        from mulfree.models import load_model

        return torch_runner(load_model(path), shape, threads)
    import onnxruntime

    images = _images(shape)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    held = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    named = {held.get_inputs()[0].name: images}
    return lambda: held.run(None, named)[0]


def session_runner(source: Source, shape: Sequence[int], threads: int) -> Callable[[], Any]:
    """Function that runs a network of the runtime on pixels; `threads` are the session's."""
    from mulfree.runtime import Session

    session = Session(source, threads=threads)
    given = pixels(shape)
    return lambda: session.run(given)


def torch_runner(network: nn.Module, shape: Sequence[int], threads: int) -> Callable[[], Any]:
    """Function that runs a network of torch; it becomes channels_last, `threads` torch's."""
    import torch

    torch.set_num_threads(threads)
    last = torch.channels_last
    # torch's stubs declare memory formats for tensors only.
    laid_out = network.to(memory_format=last)  # type: ignore[call-overload]
    tensor = torch.from_numpy(_images(shape)).contiguous(memory_format=last)

    @torch.inference_mode()
    def run() -> Any:
        return laid_out(tensor).numpy()

    return run


def _images(shape: Sequence[int]) -> NDArray[np.float32]:
    """Normalised images for libraries other than the runtime."""
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def main(argument: str) -> str:
    """Measure in this process: JSON in, JSON out."""
    settings = json.loads(argument)
    importlib.import_module(LIBRARIES[settings["library"]])

    def load_and_run() -> None:
        run = runner(**settings)
        for _ in range(_RUNS):
            run()

    return json.dumps(peak_memory(load_and_run))


if __name__ == "__main__":
    print(main(sys.argv[1]))
