"""Everything that is measured on a GPU, within a time limit; `benchmarks/gpu.sh` calls it.

PYTHONPATH=src python -m benchmarks.gpu --seconds 300 [--output DIR]
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmarks.gpu.bench import NETWORKS, GpuBench, Network
from benchmarks.gpu.epoch import cifar10
from benchmarks.gpu.report import report
from benchmarks.gpu.schedule import Entries, run_until
from benchmarks.gpu.targets import targets

import mulfree
from mulfree import models
from mulfree.bench.device import sm_clock_hz
from mulfree.bench.steps import Step, StepOptions, build_step, captured_step
from mulfree.cost.counting import BASELINE
from mulfree.data import BatchLoader
from mulfree.environment import environment
from mulfree.files import write_atomically

SCHEMA = "mulfree.gpu/1"
OPERATOR = "adder2d"
SECONDS = 300
RESULTS = Path(__file__).parents[1] / "results" / mulfree.__version__

INSTRUCTIONS_PER_TAP = 2


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the operators on a GPU.")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"default: {SECONDS}")
    parser.add_argument("--output", type=Path, default=RESULTS, metavar="DIR", help="for the JSON")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("benchmarks.gpu: torch finds no CUDA GPU", file=sys.stderr)
        return 2
    device = torch.device("cuda", torch.cuda.current_device())
    limit = two_instruction_limit(device)
    bench = GpuBench(
        operator=OPERATOR,
        device=device,
        networks=[network for network in NETWORKS if network.name in models.list_models()],
        limit=limit,
    )
    parts: dict[str, Entries] = {}
    for name, entries in bench.parts().items():
        parts[name] = entries
        if name == "epoch":
            parts["loader"] = lambda: loader_shares(device)
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "environment": environment(),
        "settings": {
            "operator": OPERATOR,
            "baseline": BASELINE,
            "rounds": bench.rounds,
            "seconds": options.seconds,
        },
    }
    path = options.output / f"gpu-{slug(torch.cuda.get_device_name(device))}.json"
    options.output.mkdir(parents=True, exist_ok=True)

    def save(measured: dict[str, Any]) -> None:
        result["limits"] = {"by_instructions": limit, "measured": measured_limit(measured)}
        result["parts"] = measured
        result["targets"] = targets(measured, OPERATOR)
        write_atomically(path, json.dumps(result, indent=1).encode() + b"\n")

    sound = run_until(time.monotonic() + options.seconds, parts, save)
    print(report(result), end="")
    print(f"written to {path}")
    return 0 if sound else 1


def two_instruction_limit(device: torch.device) -> float | None:
    """Taps a second in float32 if every lane of every multiprocessor does nothing else."""
    clock = sm_clock_hz(device)
    if clock is None:
        return None
    facts = torch.cuda.get_device_properties(device)
    # All but the data centre's part of the generation before have as many lanes as issue slots.
    lanes = 64 if (facts.major, facts.minor) <= (8, 0) else 128
    return facts.multi_processor_count * lanes * clock / INSTRUCTIONS_PER_TAP


def measured_limit(parts: dict[str, Any]) -> float | None:
    """Taps a second of the same two instructions in a loop that touches registers only."""
    rates = {entry["name"]: entry["taps_per_s"] for entry in parts["rates"]["entries"]}
    return next((rate for name, rate in rates.items() if name.startswith("forward fp32")), None)


def loader_shares(device: torch.device) -> Iterator[dict[str, Any]]:
    """What the loader adds to a captured training step, which has no host time to hide it in."""
    from benchmarks.loader import loader_share

    network = NETWORKS[0]
    source, splits = cifar10()
    loader = BatchLoader(
        splits.train.to(device),
        network.batch,
        train=True,
        transform=splits.train_transform,
        device=device,
    )
    for name in (OPERATOR, BASELINE):
        share = loader_share(partial(graph_step, network, name, loader), loader, batches=50)
        yield {"model": network.name, "operator": name, "images": source, **share}


def graph_step(network: Network, operator: str, loader: BatchLoader) -> Step:
    options = StepOptions(device=loader.device, mode="graph")
    step = build_step(network.name, operator, network.input_size, options=options)
    return captured_step(step, *next(iter(loader)))


def slug(name: str) -> str:
    """A name for files: `NVIDIA H200` is `nvidia-h200`."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


if __name__ == "__main__":
    sys.exit(main())
