"""Cost of switching the depth of a session: `python benchmarks/depth_switching.py`.

A file of all sub-nets as integers, one image, all candidates in one process and in turns:

    run         runs of one depth
    switched    the same, with a switch to another depth and back before every run
    alternated  runs of one depth and of another in turns, against the mean of both alone

The bound is 1.01 for one switch, half of what `switched` adds. Alternating also costs what the
caches of the processor lose to the other depth. Seconds are processor time of one thread, which
other work on the machine disturbs little. The first switch compiles a depth and is reported
apart, as is the memory of a session with all depths against one session for each. Weights are
random, as no kernel's time depends on them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mulfree import models, runtime
from mulfree.bench.memory import peak_memory
from mulfree.bench.timing import Spread, interleave
from mulfree.environment import environment
from mulfree.files import write_atomically
from mulfree.quantization import quantize_depths
from mulfree.runtime import Session


def main() -> None:
    """Print times and memory of one network."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="ddnn_resnet20_32_56")
    parser.add_argument("--operator", default="adder2d")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--output", type=Path, help="JSON of the results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = _measured(options, Path(folder))
    print(_text(results))
    if options.output is not None:
        settings = {key: value for key, value in vars(options).items() if key != "output"}
        content = {"options": settings, **results, "environment": environment()}
        write_atomically(options.output, json.dumps(content, indent=1).encode() + b"\n")


def _measured(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    torch.manual_seed(0)
    model = models.create_model(options.model, operator=options.operator, width=options.width)
    assert isinstance(model, models.DepthDynamicNetwork)
    size = (3, options.image_size, options.image_size)
    graphs = quantize_depths(model.eval(), torch.randn(8, *size))
    whole = folder / "all"
    runtime.save(graphs, whole)
    for depth, graph in graphs.items():
        runtime.save(graph, folder / depth)
    pixels = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    return {
        "first_switch_seconds": _first_switches(whole, model.depths),
        **_times(Session(whole, depth=model.depths[0], threads=1), pixels, options),
        "memory_bytes": {
            "all_depths": _memory(whole, model.depths),
            "one_session_each": _memory(folder, model.depths),
        },
    }


def _first_switches(file: Path, depths: tuple[str, ...]) -> dict[str, float]:
    """Seconds of the first switch to each depth but the first, which is compiled already."""
    session = Session(file, depth=depths[0], threads=1)
    found = {}
    for depth in depths[1:]:
        start = time.process_time()
        session.depth = depth
        found[depth] = time.process_time() - start
    return found


def _times(
    session: Session, pixels: np.ndarray[Any, Any], options: argparse.Namespace
) -> dict[str, Any]:
    session.compile_depths()
    out = np.empty((1, session.graph.outputs), np.float32)
    first, *_, last = session.depths

    def run(*depths: str) -> None:
        for depth in depths:
            session.depth = depth
        session.run(pixels, out=out)

    def plain() -> None:
        session.run(pixels, out=out)

    def switched(own: str, other: str) -> dict[str, Any]:
        session.depth = own
        samples = interleave(
            {"run": plain, "switched": lambda: run(other, own)},
            rounds=options.rounds,
            clock=time.process_time,
        )
        ratio = _ratio(samples["switched"], samples["run"])
        seconds = statistics.median(samples["run"])
        return {"seconds": seconds, "ratio": ratio.median, "q1": ratio.q1, "q3": ratio.q3}

    def in_turns() -> None:
        run(first)
        run(last)

    def one_of(depth: str) -> None:
        # Twice, as many runs as in turns.
        session.depth = depth
        plain()
        plain()

    samples = interleave(
        {
            "alternated": in_turns,
            first: lambda: one_of(first),
            last: lambda: one_of(last),
        },
        rounds=options.rounds,
        clock=time.process_time,
    )
    alone = [(a + b) / 2 for a, b in zip(samples[first], samples[last], strict=True)]
    ratio = _ratio(samples["alternated"], alone)
    return {
        "switched": {first: switched(first, last), last: switched(last, first)},
        "alternated": {"ratio": ratio.median, "q1": ratio.q1, "q3": ratio.q3},
    }


def _ratio(samples: list[float], reference: list[float]) -> Spread:
    return Spread.of(one / other for one, other in zip(samples, reference, strict=True))


def _memory(path: Path, depths: tuple[str, ...]) -> int:
    """Bytes that the sessions add to a fresh process."""
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawned) as pool:
        return pool.submit(added_memory, path, depths).result()


def added_memory(path: Path, depths: tuple[str, ...]) -> int:
    """Bytes that sessions add to this process: of a file of all depths, or a folder of files."""
    kept: list[Session] = []

    def make() -> None:
        if path.is_dir():
            kept.extend(Session(path / depth, threads=1) for depth in depths)
        else:
            kept.append(Session(path, depth=depths[0], threads=1))
            kept[0].compile_depths()

    return peak_memory(make)["added"]


def _text(results: dict[str, Any]) -> str:
    lines = [
        f"{depth:12} {1e3 * row['seconds']:8.3f} ms a run; with two switches "
        f"{row['ratio']:.4f} ({row['q1']:.4f} to {row['q3']:.4f})"
        for depth, row in results["switched"].items()
    ]
    row = results["alternated"]
    lines.append(
        f"in turns with another depth {row['ratio']:.4f} ({row['q1']:.4f} to {row['q3']:.4f})"
    )
    lines += [
        f"first switch to {depth}: {1e3 * seconds:.1f} ms"
        for depth, seconds in results["first_switch_seconds"].items()
    ]
    memory = {name: f"{count / 1e6:.2f} MB" for name, count in results["memory_bytes"].items()}
    lines.append(
        f"memory: {memory['all_depths']} with all depths, {memory['one_session_each']} with one "
        "session each"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
