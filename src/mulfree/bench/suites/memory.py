"""Peak memory of training steps, on a CPU each network in a process of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import torch

from mulfree.bench.process import memory_in_process
from mulfree.bench.steps import StepOptions, step_memory
from mulfree.bench.suites import Advance, BenchOptions, Suite
from mulfree.bench.suites.step import check_options
from mulfree.cost.counting import BASELINE
from mulfree.cost.table import text_table


def run(options: BenchOptions, advance: Advance) -> dict[str, Any]:
    """Measure the operator's network and the convolutional one."""
    step = options.step()
    entry: dict[str, Any] = {"model": step["model"], "batch": step["batch"]}
    for operator in (options.operator, BASELINE):
        advance(f"memory of {step['model']} {operator}")
        entry[operator] = _memory_of({**step, "operator": operator}, torch.device(options.device))
    entry["ratio"] = entry[options.operator]["added"] / max(1, entry[BASELINE]["added"])
    return entry


def _memory_of(step: dict[str, Any], device: torch.device) -> dict[str, int]:
    if device.type == "cuda":
        # The device's allocator counts by itself, the operating system only whole processes.
        return step_memory(**step, options=StepOptions(device=device))
    settings = {**step, "threads": torch.get_num_threads()}
    return memory_in_process(__name__, settings, step["operator"])


def main(arguments: str) -> None:
    """Measure in this process, which should be a fresh one: JSON in, JSON out."""
    settings = json.loads(arguments)
    torch.set_num_threads(settings.pop("threads"))
    print(json.dumps(step_memory(**settings)))


def report(operator: str, entry: Mapping[str, Any]) -> str:
    """Table of the peaks."""
    rows = [
        [
            name,
            f"{entry[name]['added'] / 2**20:.1f}",
            f"{entry[name]['peak'] / 2**20:.1f}",
            f"{entry['ratio']:.3f}" if name == operator else "",
        ]
        for name in (operator, BASELINE)
    ]
    title = f"Peak memory of training steps of {entry['model']}, batch {entry['batch']}, MiB"
    return text_table(title, ("operator", "added", "process", "ratio"), rows, left=1)


SUITE = Suite(
    summary="peak memory of training steps, on a CPU each network in a process of its own",
    parts=lambda options: 2,
    run=run,
    report=report,
    check=check_options,
)

if __name__ == "__main__":
    main(sys.argv[1])
