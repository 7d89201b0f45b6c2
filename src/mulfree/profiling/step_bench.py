"""Time and measure whole training steps of a network against its convolutional twin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from mulfree.models import create_model
from mulfree.profiling.counting import BASELINE
from mulfree.profiling.memory import peak_memory
from mulfree.profiling.timing import compare, interleave

MakeOptimizer = Callable[[nn.Module], Optimizer]

NUM_CLASSES = 10

# Normalisation of the logits cannot be trained on a single image.
MIN_BATCH = 2


def bench_step(
    model: str,
    operator: str,
    *,
    batch: int,
    input_size: Sequence[int],
    rounds: int,
    make_optimizer: MakeOptimizer,
) -> dict[str, Any]:
    """Time a training step: forward, loss, backward, step of the optimiser.

    Args:
        model: Name for `create_model`.
        operator: Operator of the network that is timed against the convolutional one.
        batch: Images in a batch.
        input_size: Shape of one image.
        rounds: Samples of each.
        make_optimizer: Gives the optimiser of a network.

    Returns:
        Timings and their ratio, as JSON values.
    """
    candidates = {
        name: training_step(model, name, batch, input_size, make_optimizer)
        for name in (operator, BASELINE)
    }
    timings = compare(interleave(candidates, rounds=rounds), BASELINE)
    return {
        "model": model,
        "batch": batch,
        "input_size": list(input_size),
        "timings": timings,
        "ratio": timings[operator]["ratio"],
    }


def training_step(
    model: str,
    operator: str,
    batch: int,
    input_size: Sequence[int],
    make_optimizer: MakeOptimizer,
) -> Callable[[], None]:
    """A function that makes one training step on a fixed batch of random images."""
    generator = torch.Generator().manual_seed(0)
    network = create_model(
        model, operator=operator, in_channels=input_size[0], num_classes=NUM_CLASSES
    ).train()
    optimizer = make_optimizer(network)
    images = torch.randn((batch, *input_size), generator=generator)
    labels = torch.randint(NUM_CLASSES, (batch,), generator=generator)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()

    return step


def step_memory(
    model: str,
    operator: str,
    *,
    batch: int,
    input_size: Sequence[int],
    make_optimizer: MakeOptimizer,
) -> dict[str, int]:
    """Peak memory of training steps in this process, which should be a fresh one.

    Network, gradients, state of the optimiser, activations and workspaces all count; what the
    process needed before the network was built does not. The libraries' thread pools and caches
    are created by a tiny step first, so that they do not count.
    """
    training_step(model, operator, MIN_BATCH, input_size, make_optimizer)()

    def steps() -> None:
        step = training_step(model, operator, batch, input_size, make_optimizer)
        for _ in range(2):
            step()

    return peak_memory(steps)
