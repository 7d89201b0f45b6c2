"""What the GPU kernels compile to, on a computer that needs no GPU.

    PYTHONPATH=src python -m benchmarks.sass [--capability 90] [--output sass.json]

Every kernel of the adder operator is compiled ahead of time for layers of real networks; registers,
spills, shared memory and the instructions of the hottest loop are read from the machine code.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import compile_offline, sass
from mulfree.bench.correctness import BenchmarkError
from mulfree.cost.table import text_table
from mulfree.environment import environment
from mulfree.files import write_atomically
from mulfree.operators.adder2d import triton
from mulfree.operators.adder2d.gradient import parse_gradient
from mulfree.operators.window import ConvProblem

SCHEMA = "mulfree.sass/1"

LAYERS = {
    "resnet20 16": ConvProblem(batch=256, in_channels=16, out_channels=16, size=(32, 32)),
    "resnet20 64": ConvProblem(batch=256, in_channels=64, out_channels=64, size=(8, 8)),
    "resnet18 64": ConvProblem(batch=64, in_channels=64, out_channels=64, size=(56, 56)),
    "resnet18 512": ConvProblem(batch=64, in_channels=512, out_channels=512, size=(7, 7)),
    "resnet18 128 stride 2": ConvProblem(
        batch=64, in_channels=64, out_channels=128, size=(56, 56), stride=(2, 2)
    ),
    "resnet50 256 to 64, 1x1": ConvProblem(
        batch=64, in_channels=256, out_channels=64, size=(56, 56), kernel=(1, 1), padding=(0, 0)
    ),
    "depthwise 96": ConvProblem(
        batch=64, in_channels=96, out_channels=96, size=(56, 56), groups=96
    ),
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PARTS = {"forward": sass.forward_taps, "input_grad": sass.input_grad_taps}


def kernels(capabilities: list[int]) -> Iterator[dict[str, Any]]:
    """One entry a kernel, with an `error` instead of figures where it does not compile."""
    rule = parse_gradient("sass", "adder")
    for (layer, problem), (precision, dtype), (part, taps) in itertools.product(
        LAYERS.items(), DTYPES.items(), PARTS.items()
    ):
        planned = triton.launches(part, tensors(problem, dtype, part), problem.sliding, rule, 1.0)
        for launch, capability in itertools.product(planned, capabilities):
            entry = {
                "layer": layer,
                "geometry": str(problem),
                "part": part,
                "precision": precision,
                "capability": capability,
            }
            try:
                yield entry | compile_offline.describe(
                    compile_offline.compile_launch(launch, capability), taps
                )
            except BenchmarkError as error:
                yield entry | {"error": str(error)}


def tensors(problem: ConvProblem, dtype: torch.dtype, part: str) -> list[torch.Tensor]:
    shapes = [problem.input_shape, problem.weight_shape]
    if part != "forward":
        shapes.insert(0, problem.output_shape)
    return [torch.empty(shape, dtype=dtype, device="meta") for shape in shapes]


def table(entries: list[dict[str, Any]]) -> str:
    rows = []
    for entry in entries:
        loop = entry["hottest_loop"]
        rows.append(
            [
                entry["layer"],
                entry["part"],
                entry["precision"],
                f"sm_{entry['capability']}",
                str(entry["registers"]),
                str(entry["spill_bytes"]),
                str(entry["shared_bytes"]),
                f"{entry['occupancy']:.0%}",
                str(loop["instructions"]),
                f"{loop['other_share']:.0%}",
                *(
                    "-" if loop[key] is None else f"{loop[key]:.2f}"
                    for key in ("arithmetic_per_tap", "instructions_per_tap")
                ),
            ]
        )
    columns = (
        *("layer", "part", "dtype", "target", "registers", "spilled", "shared", "occupancy"),
        *("loop", "other", "arithmetic/tap", "all/tap"),
    )
    return text_table("Kernels and their hottest loops", columns, rows, left=4)


def main() -> int:
    parser = argparse.ArgumentParser(description="Compile the GPU kernels ahead of time.")
    parser.add_argument(
        "--capability",
        type=int,
        action="append",
        choices=compile_offline.CAPABILITIES,
        help="default: all",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the result as JSON too")
    options = parser.parse_args()
    entries = []
    for entry in kernels(options.capability or list(compile_offline.CAPABILITIES)):
        entries.append(entry)
        print(f"{len(entries)} {entry['layer']} {entry['part']}", file=sys.stderr)
    if options.output is not None:
        result = {"schema": SCHEMA, "environment": environment(), "kernels": entries}
        write_atomically(options.output, json.dumps(result, indent=1).encode() + b"\n")
    failed = [entry["error"] for entry in entries if "error" in entry]
    print(table([entry for entry in entries if "error" not in entry]), end="")
    for line in dict.fromkeys(failed):
        print(line, file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
