"""Cost of a step of pkkd relative to steps of its networks: `python benchmarks/distillation.py`.

All methods run in one process and take turns with the same batch; a ratio is a median over rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from mulfree import models
from mulfree.training import OptimizerConfig, TrainingMethod, build_optimizer
from mulfree.training.methods import pkkd, supervised

# Of pkkd, by what is printed.
VARIANTS = {
    "default": pkkd.Config(),
    "sigma matched": pkkd.Config(sigma="matched"),
    "all layers": pkkd.Config(layers=("*",)),
    "beta 0": pkkd.Config(beta=0.0),
}


def main() -> None:
    """Prints a line for each variant."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    batch = torch.randn(128, 3, 32, 32), torch.randint(0, 10, (128,))
    methods: dict[str, TrainingMethod] = {
        operator: supervised.Method(_network(operator), supervised.Config())
        for operator in ("conv2d", "adder2d")
    }
    methods |= {name: pkkd.Method(_network("adder2d"), config) for name, config in VARIANTS.items()}
    steps = {name: _step(method.train(), batch) for name, method in methods.items()}
    ratios: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for turn in range(options.rounds + 1):
        seconds = {name: _seconds(step) for name, step in steps.items()}
        # The first round allocates.
        if turn:
            alone = seconds["conv2d"] + seconds["adder2d"]
            for name, taken in ratios.items():
                taken.append(seconds[name] / alone)
    for name, taken in ratios.items():
        print(f"{name:14} {statistics.median(taken):.3f} ({min(taken):.3f} to {max(taken):.3f})")


def _network(operator: str) -> nn.Module:
    torch.manual_seed(0)
    return models.create_model("resnet20", operator=operator, norm_logits=True)


def _step(method: TrainingMethod, batch: tuple[Tensor, Tensor]) -> Callable[[], None]:
    optimizer = build_optimizer(method, OptimizerConfig())

    def step() -> None:
        optimizer.zero_grad()
        method(batch)["loss"].backward()
        optimizer.step()

    return step


def _seconds(step: Callable[[], None]) -> float:
    begin = time.perf_counter()
    step()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
