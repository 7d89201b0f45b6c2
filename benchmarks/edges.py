"""What floating-point weights at the ends of a network cost: `python benchmarks/edges.py`.

Both networks are in one process and take turns with one picture on one thread; medians.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import torch

from mulfree import models
from mulfree.quantization import quantize
from mulfree.runtime import Session

NETWORKS = {"resnet20": (32, 10, 300), "resnet18": (224, 1000, 60)}


def main() -> None:
    """Prints a line for each network, and its first and last layer."""
    for name, (side, classes, runs) in NETWORKS.items():
        torch.manual_seed(0)
        network = models.create_model(name, operator="adder2d", num_classes=classes)
        batches = [torch.randn(2, 3, side, side)]
        sessions = {
            edges: Session(quantize(network, batches, edges=edges), threads=1)
            for edges in ("int8", "float")
        }
        pixels = np.random.default_rng(0).integers(0, 256, (1, 3, side, side), np.uint8)
        seconds: dict[str, list[float]] = {edges: [] for edges in sessions}
        for _ in range(runs):
            for edges, session in sessions.items():
                begin = time.perf_counter()
                session.run(pixels)
                seconds[edges].append(time.perf_counter() - begin)
        medians = {edges: 1e3 * statistics.median(taken) for edges, taken in seconds.items()}
        ratio = medians["float"] / medians["int8"]
        print(f"{name} {side}x{side}: {ratio:.2f} times as long")
        for edges, session in sessions.items():
            _, first, *_, last = session.profile(pixels, runs=50)
            ends = ", ".join(f"{1e3 * row.seconds:.3f} ms {row.kernel}" for row in (first, last))
            print(f"  {edges:5} {medians[edges]:.3f} ms; {ends}")


if __name__ == "__main__":
    main()
