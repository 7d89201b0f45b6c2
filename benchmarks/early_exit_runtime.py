"""Cost of exits for an image that never leaves: `python benchmarks/early_exit_runtime.py`.

A network with exits whose thresholds no image reaches, against the same network without exits, both
as integers in one process, in turns. Weights are random, as no kernel's time depends on them. The
bound is 1.03.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mulfree import models
from mulfree.bench.timing import Spread, interleave
from mulfree.environment import environment
from mulfree.files import write_atomically
from mulfree.models.early_exit import AllExits, EarlyExitNetwork
from mulfree.quantization import quantize
from mulfree.runtime import EarlyExitSession, Session

NEVER = 2.0


def main() -> None:
    """Print a line for each network, batch and number of threads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=["resnet20", "vgg_small"])
    parser.add_argument("--operators", nargs="+", default=["adder2d", "conv2d"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--output", type=Path, help="JSON of the results")
    options = parser.parse_args()
    rows = [
        row
        for network in options.networks
        for operator in options.operators
        for row in _measured(network, operator, options)
    ]
    if options.output is not None:
        content = {"runs": rows, "environment": environment()}
        write_atomically(options.output, json.dumps(content, indent=1).encode() + b"\n")


def _measured(network: str, operator: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    model = models.create_model(
        "early_exit", network=network, operator=operator, width=options.width
    ).eval()
    assert isinstance(model, EarlyExitNetwork)
    images = torch.randn(8, 3, 32, 32)
    whole = quantize(AllExits(model), images)
    alone = quantize(model, images)
    rows = []
    for threads in options.threads:
        exits = EarlyExitSession(whole, thresholds=NEVER, threads=threads)
        plain = Session(alone, threads=threads)
        for batch in options.batches:
            shape = (batch, 3, 32, 32)
            pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
            out = np.empty((batch, 10), np.float32)
            assert exits.run_exits(pixels).exits.tolist() == [len(model.exits)] * batch
            samples = interleave(
                {
                    "exits": lambda s=exits, p=pixels, o=out: s.run_exits(p, out=o),  # type: ignore[misc]
                    "plain": lambda s=plain, p=pixels, o=out: s.run(p, out=o),  # type: ignore[misc]
                },
                rounds=options.rounds,
            )
            pairs = zip(samples["exits"], samples["plain"], strict=True)
            ratio = Spread.of(one / other for one, other in pairs)
            row = {
                "network": network,
                "operator": operator,
                "threads": threads,
                "batch": batch,
                "exits_seconds": Spread.of(samples["exits"]).median,
                "plain_seconds": Spread.of(samples["plain"]).median,
                "ratio": ratio.median,
                "ratio_q1": ratio.q1,
                "ratio_q3": ratio.q3,
            }
            rows.append(row)
            print(
                f"{network:12} {operator:8} {threads} threads batch {batch:3}  "
                f"{1e3 * row['exits_seconds']:8.3f} ms with, {1e3 * row['plain_seconds']:8.3f} ms "
                f"without exits  {ratio.median:.3f} ({ratio.q1:.3f} to {ratio.q3:.3f})",
                flush=True,
            )
    return rows


if __name__ == "__main__":
    main()
