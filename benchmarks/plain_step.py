"""Training step of efficientnet_b0 relative to PyTorch's own modules.

    PYTHONPATH=src python benchmarks/plain_step.py [--output FILE.json]

Both networks have convolutions and take turns with the same batch; the ratio is a median over
rounds. The plain one is `torch.nn` alone: its modules in `torch.nn.Sequential`, the loss and SGD.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from mulfree import models
from mulfree.environment import environment
from mulfree.files import write_atomically
from mulfree.training import OptimizerConfig, build_optimizer
from mulfree.training.methods import supervised

# Expansion, kernel, stride, channels, blocks: arXiv 1905.11946, Table 1.
TABLE = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
CLASSES = 1000
LR, MOMENTUM, DECAY = 0.1, 0.9, 1e-4


class _Residual(nn.Module):
    """Block whose input is added, or in training skipped for some images."""

    def __init__(self, block: nn.Module, drop: float) -> None:
        super().__init__()
        self.block = block
        self.drop = drop

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        if self.training and self.drop:
            kept = torch.empty(len(y), 1, 1, 1).bernoulli_(1 - self.drop)
            y = y * (kept / (1 - self.drop))
        return x + y


class _Squeeze(nn.Module):
    """Squeeze-and-excitation."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.SiLU(),
            nn.Conv2d(squeezed, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        gated: Tensor = x * self.gate(x)
        return gated


def _layer(
    channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    padding = kernel // 2
    return [
        nn.Conv2d(channels, out, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(out, eps=1e-3, momentum=0.01),
    ]


def plain() -> nn.Module:
    """Return EfficientNet-B0 of PyTorch's modules."""
    layers, channels = [*_layer(3, 32, 3, 2), nn.SiLU()], 32
    index, total = 0, sum(row[-1] for row in TABLE)
    for expansion, kernel, stride, out, blocks in TABLE:
        for number in range(blocks):
            wide, step = expansion * channels, stride if number == 0 else 1
            block = [*_layer(channels, wide, 1), nn.SiLU()] if expansion > 1 else []
            block += [*_layer(wide, wide, kernel, step, wide), nn.SiLU()]
            block += [_Squeeze(wide, channels // 4), *_layer(wide, out, 1)]
            whole: nn.Module = nn.Sequential(*block)
            if step == 1 and channels == out:
                whole = _Residual(whole, 0.2 * index / total)
            layers.append(whole)
            channels, index = out, index + 1
    layers += [*_layer(channels, 1280, 1), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Dropout(0.2), nn.Linear(1280, CLASSES))


def main() -> None:
    """Time both, print the ratio and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    batch = torch.randn(options.batch, 3, options.size, options.size)
    labels = torch.randint(0, CLASSES, (options.batch,))
    steps = {"mulfree": _ours(batch, labels), "plain": _theirs(batch, labels)}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(options.rounds + 1):
        for name in list(steps)[:: 1 if number % 2 else -1]:
            start = time.perf_counter()
            steps[name]()
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    ratios = [a / b for a, b in zip(seconds["mulfree"], seconds["plain"], strict=True)]
    result = {
        "batch": options.batch,
        "size": options.size,
        "threads": options.threads,
        "seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "ratio": statistics.median(ratios),
        "ratio_quartiles": statistics.quantiles(ratios, n=4)[::2],
        "environment": environment(),
    }
    print(f"{result['ratio']:.3f} times the plain step, quartiles {result['ratio_quartiles']}")
    if options.output is not None:
        write_atomically(options.output, (json.dumps(result, indent=2) + "\n").encode())


def _ours(images: Tensor, labels: Tensor) -> Callable[[], None]:
    network = models.create_model("efficientnet_b0", num_classes=CLASSES)
    method = supervised.Method(network, supervised.Config()).train()
    config = OptimizerConfig(lr=LR, momentum=MOMENTUM, weight_decay=DECAY)
    optimizer = build_optimizer(method, config)

    def step() -> None:
        optimizer.zero_grad()
        method((images, labels))["loss"].backward()
        optimizer.step()

    return step


def _theirs(images: Tensor, labels: Tensor) -> Callable[[], None]:
    network = plain().train()
    optimizer = torch.optim.SGD(network.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
