"""Time networks of the runtime against convolutional ones in other libraries."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mulfree.bench import candidate_process
from mulfree.bench.candidates import CNNS, ONNX_FLOAT, TORCH, Candidate
from mulfree.bench.correctness import BenchmarkError
from mulfree.bench.timing import compare, fastest, interleave
from mulfree.runtime import load, reference

# Long enough for the threads of the candidate before to stop waiting for more work.
_PAUSE_SECONDS = 0.02

# ONNX Runtime adds up in another order than torch.
_FLOAT_ERROR = 1e-4


def check(candidates: Sequence[Candidate], input_size: Sequence[int]) -> None:
    """The gate: what computes something wrong is not timed.

    Networks of the runtime must equal the reference bit for bit, and ONNX Runtime's float network
    torch's to 1e-4, on one image.

    Raises:
        BenchmarkError: They do not.
    """
    shape = (1, *input_size)
    logits = {candidate.name: candidate.runner(shape, 1)() for candidate in candidates}
    for candidate in candidates:
        if candidate.library == "mulfree":
            expected = reference.run(load(candidate.path), candidate_process.pixels(shape))
            if not np.array_equal(logits[candidate.name], expected):
                raise BenchmarkError(
                    f"bench: {candidate.name} must equal the reference, got logits that differ "
                    f"by up to {np.abs(logits[candidate.name] - expected).max():.3g}"
                )
    error = np.abs(logits[ONNX_FLOAT] - logits[TORCH]).max() / np.abs(logits[TORCH]).max()
    if not error <= _FLOAT_ERROR:
        raise BenchmarkError(
            f"bench: {ONNX_FLOAT} must agree with {TORCH} to {_FLOAT_ERROR:g}, got {error:.3g}"
        )


def bench_networks(
    candidates: Sequence[Candidate],
    *,
    batch: int,
    threads: int,
    input_size: Sequence[int],
    rounds: int,
) -> dict[str, Any]:
    """Time all candidates in turns.

    Returns:
        Timings, images per second, the fastest of `CNNS`, and how many times as fast as that each
        network of the runtime is, as JSON values.
    """
    before = torch.get_num_threads()
    try:
        runs = {
            candidate.name: candidate.runner((batch, *input_size), threads)
            for candidate in candidates
        }
        samples = interleave(runs, rounds=rounds, pause=_PAUSE_SECONDS)
    finally:
        torch.set_num_threads(before)
    best = fastest(samples, CNNS)
    timings = compare(samples, best)
    own = [candidate.name for candidate in candidates if candidate.library == "mulfree"]
    return {
        "batch": batch,
        "threads": threads,
        "input_size": list(input_size),
        "timings": timings,
        "images_per_s": {name: batch / timing["median_s"] for name, timing in timings.items()},
        "fastest_cnn": best,
        "times_as_fast": {name: 1 / timings[name]["ratio"] for name in own},
    }


def memory_of(
    candidate: Candidate, *, batch: int, threads: int, input_size: Sequence[int]
) -> dict[str, int]:
    """Memory that loading and running takes, in a fresh process that does nothing else.

    Returns:
        See `peak_memory`: `before` is a process that has imported the library.

    Raises:
        BenchmarkError: The process failed.
    """
    settings = {
        "library": candidate.library,
        "path": str(candidate.path),
        "shape": [batch, *input_size],
        "threads": threads,
    }
    # -P: the folder of that file has modules with names of the standard library's.
    command = [sys.executable, "-P", str(Path(candidate_process.__file__)), json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines()[-1:] or [f"status {done.returncode}"]
        raise BenchmarkError(f"bench: memory of {candidate.name} was not measured: {reason[0]}")
    memory: dict[str, int] = json.loads(done.stdout)
    return memory
