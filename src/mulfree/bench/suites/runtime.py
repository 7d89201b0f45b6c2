"""Whole networks of the runtime against convolutional ones in other libraries."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mulfree import models
from mulfree.bench import candidate_process
from mulfree.bench.candidates import CNNS, ONNX_FLOAT, TORCH, Candidate, make_candidates
from mulfree.bench.correctness import BenchmarkError
from mulfree.bench.latency import PAUSE_SECONDS
from mulfree.bench.process import memory_in_process
from mulfree.bench.runtime_report import report
from mulfree.bench.suites import Advance, BenchOptions, Suite
from mulfree.bench.timing import compare, fastest, interleave
from mulfree.cost.counting import BASELINE
from mulfree.environment import environment
from mulfree.errors import BackendUnavailableError, ConfigError
from mulfree.runtime import load, reference

SCHEMA = "mulfree.bench-runtime/1"

_MODELS = ("resnet18", "resnet34", "resnet50", "resnet20", "resnet32", "vgg_small")
_BATCHES, _THREADS = (1, 32), (1, 2)
_QUICK_MODELS, _QUICK_BATCHES, _QUICK_THREADS = ("resnet20",), (1,), (1,)

# Samples of each: a batch is long enough for a steady time.
_ROUNDS, _BATCH_ROUNDS, _QUICK_ROUNDS = 21, 7, 5

_LARGE_SIDE, _LARGE_CLASSES, _SMALL_CLASSES = 224, 1000, 10

# ONNX Runtime adds up in another order than torch.
_FLOAT_ERROR = 1e-4


def check_options(options: BenchOptions) -> None:
    """Refuse a GPU, a forced instruction set, and an installation without ONNX Runtime.

    Raises:
        ConfigError: An option does not apply.
        BackendUnavailableError: ONNX Runtime is missing.
    """
    for name, value, only in (("device", options.device, "cpu"), ("isa", options.isa, None)):
        if value != only:
            raise ConfigError(f"bench: `--{name}` must be left out for runtime, got {value}")
    try:
        import onnxruntime as onnxruntime
    except ModuleNotFoundError as error:
        raise BackendUnavailableError(
            "bench: `runtime` needs onnxruntime: pip install mulfree[onnx]"
        ) from error


def run(options: BenchOptions, advance: Advance) -> dict[str, Any]:
    """Compare all networks; the content of a result file."""
    names, batches, threads = _choices(options)
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "environment": environment() | {"onnx": _versions()},
        "settings": {
            "models": list(names),
            "batches": list(batches),
            "threads": list(threads),
            "operator": options.operator,
            "baseline": BASELINE,
            "quick": options.quick,
        },
        "times": [],
        "files": [],
        "memory": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            size = options.size(name)
            large = models.image_size(name) >= _LARGE_SIDE
            advance(f"{name}: quantise and check")
            candidates = make_candidates(
                name,
                options.operator,
                Path(folder),
                input_size=size,
                num_classes=_LARGE_CLASSES if large else _SMALL_CLASSES,
            )
            check(candidates, size)
            sizes = {candidate.name: candidate.path.stat().st_size for candidate in candidates}
            result["files"].append({"model": name, "bytes": sizes})
            for batch in batches:
                advance(f"{name}: memory, batch {batch}")
                memory = {
                    c.name: memory_of(c, batch=batch, threads=threads[0], input_size=size)
                    for c in candidates
                }
                result["memory"].append({"model": name, "batch": batch, "memory": memory})
                for count in threads:
                    advance(f"{name}: batch {batch}, threads {count}")
                    entry = bench_networks(
                        candidates,
                        batch=batch,
                        threads=count,
                        input_size=size,
                        rounds=_rounds(options, batch),
                    )
                    result["times"].append({"model": name, **entry})
    return result


def _parts(options: BenchOptions) -> int:
    names, batches, threads = map(len, _choices(options))
    return names * (1 + batches * (threads + 1))


def _choices(options: BenchOptions) -> tuple[tuple[str, ...], tuple[int, ...], tuple[int, ...]]:
    """Networks, batches and numbers of threads."""
    quick = options.quick
    return (
        options.models or (_QUICK_MODELS if quick else _MODELS),
        options.batches or (_QUICK_BATCHES if quick else _BATCHES),
        options.threads or (_QUICK_THREADS if quick else _THREADS),
    )


def _rounds(options: BenchOptions, batch: int) -> int:
    if options.rounds is not None:
        return options.rounds
    if options.quick:
        return _QUICK_ROUNDS
    return _ROUNDS if batch == 1 else _BATCH_ROUNDS


def _versions() -> dict[str, str]:
    import onnx
    import onnxruntime

    return {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}


def check(candidates: Sequence[Candidate], input_size: Sequence[int]) -> None:
    """Refuse candidates with wrong logits.

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
        samples = interleave(runs, rounds=rounds, pause=PAUSE_SECONDS)
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
    return memory_in_process(candidate_process.__name__, settings, candidate.name)


SUITE = Suite(
    summary="""\
whole networks without torch against other libraries; not part of all, a result file of
its own, and several --batches and --threads""",
    parts=_parts,
    run=run,
    report=lambda operator, result: report(result),
    check=check_options,
    alone=True,
)
