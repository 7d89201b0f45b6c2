"""Time and measure whole training steps of a network against its convolutional twin."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from mulfree.bench.device import (
    DTYPES,
    Precision,
    captured,
    clock_of,
    computing_in,
    tuned_convolutions,
)
from mulfree.bench.memory import peak_device_memory, peak_memory
from mulfree.bench.timing import compare, fastest, interleave
from mulfree.cost.counting import BASELINE
from mulfree.models import create_model
from mulfree.training import AdaptiveLocalLR

Step = Callable[[Tensor, Tensor], None]

NUM_CLASSES = 10

# Normalisation of the logits cannot be trained on a single image.
MIN_BATCH = 2

Mode = Literal["eager", "graph", "compile", "reduce-overhead"]
"""Eager; eager, captured as one CUDA graph; torch.compile; the same with its own CUDA graphs."""

MODES: tuple[Mode, ...] = get_args(Mode)

CHANNELS_LAST = " channels_last"

_CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class StepOptions:
    """Device, number format, mode and memory format of a training step.

    Attributes:
        device: Device of the network.
        precision: Number format; half floats by autocast, with weights in float32.
        mode: Eager, captured or compiled.
        channels_last: Memory format of images and weights.
    """

    device: torch.device = _CPU
    precision: Precision = "fp32"
    mode: Mode = "eager"
    channels_last: bool = False

    @property
    def memory_format(self) -> torch.memory_format:
        """The memory format as torch names it."""
        return torch.channels_last if self.channels_last else torch.contiguous_format


_PLAIN = StepOptions()


def sgd(network: nn.Module) -> Optimizer:
    """The papers' optimiser, with a rate so small that random labels cannot make it diverge."""
    optimizer = SGD(network.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4)
    return AdaptiveLocalLR(optimizer)


def bench_step(
    model: str,
    operator: str,
    *,
    batch: int,
    input_size: Sequence[int],
    rounds: int,
    options: StepOptions = _PLAIN,
    both_layouts: bool = False,
) -> dict[str, Any]:
    """Time a training step: forward, loss, backward, step of the optimiser.

    Args:
        model: Name for `create_model`.
        operator: Operator of the network that is timed against the convolutional one.
        batch: Images in a batch.
        input_size: Shape of one image.
        rounds: Samples of each.
        options: Device, number format and mode of both.
        both_layouts: Time both networks in channels_last too; the faster format of each counts.

    Returns:
        Timings and the ratio of the operator's best to the convolution's, as JSON values.
    """
    layouts = (False, True) if both_layouts else (options.channels_last,)
    names: dict[str, list[str]] = {operator: [], BASELINE: []}
    candidates = {}
    with tuned_convolutions():
        for name, last in itertools.product(names, layouts):
            label = name + (CHANNELS_LAST if last else "")
            names[name].append(label)
            candidates[label] = training_step(
                model, name, batch, input_size, replace(options, channels_last=last)
            )
        samples = interleave(candidates, rounds=rounds, clock=clock_of(options.device))
    best = {name: fastest(samples, labels) for name, labels in names.items()}
    timings = compare(samples, best[BASELINE])
    return {
        "model": model,
        "batch": batch,
        "input_size": list(input_size),
        "precision": options.precision,
        "mode": options.mode,
        "timings": timings,
        "best": best,
        "ratio": timings[best[operator]]["ratio"],
    }


def training_step(
    model: str,
    operator: str,
    batch: int,
    input_size: Sequence[int],
    options: StepOptions = _PLAIN,
) -> Callable[[], object]:
    """Function that makes one training step on a fixed batch of random images.

    Raises:
        RuntimeError: The step cannot be captured, or not be compiled as one graph.
    """
    generator = torch.Generator().manual_seed(0)
    step = build_step(model, operator, input_size, options)
    images = torch.randn((batch, *input_size), generator=generator)
    labels = torch.randint(NUM_CLASSES, (batch,), generator=generator)
    images = images.to(options.device, memory_format=options.memory_format)
    run = partial(step, images, labels.to(options.device))
    return captured(lambda: run, options.device) if options.mode == "graph" else run


def captured_step(step: Step, images: Tensor, labels: Tensor) -> Step:
    """A step for full batches like the ones given, as a CUDA graph where there are any.

    Raises:
        RuntimeError: The step cannot be captured.
    """
    if images.device.type != "cuda":
        return step
    fixed = images.clone(), labels.clone()
    replay = captured(lambda: partial(step, *fixed), images.device)

    def run(images: Tensor, labels: Tensor) -> None:
        fixed[0].copy_(images)
        fixed[1].copy_(labels)
        replay()

    return run


def build_step(
    model: str,
    operator: str,
    input_size: Sequence[int],
    options: StepOptions = _PLAIN,
) -> Step:
    """Function that makes one training step of a new network on images and labels.

    Mode "graph" is as "eager" here: a graph is captured with the tensors that it reads.
    """
    network = create_model(
        model, operator=operator, in_channels=input_size[0], num_classes=NUM_CLASSES
    )
    # torch's stubs declare memory formats for tensors only.
    network.train().to(options.device).to(memory_format=options.memory_format)  # type: ignore[call-overload]
    optimizer = sgd(network)
    half = options.precision in ("bf16", "fp16")

    def loss_of(images: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(options.device.type, DTYPES[options.precision], enabled=half):
            return nn.functional.cross_entropy(network(images), labels)

    if options.mode in ("compile", "reduce-overhead"):
        mode = None if options.mode == "compile" else options.mode
        loss_of = torch.compile(loss_of, fullgraph=True, mode=mode)

    def step(images: Tensor, labels: Tensor) -> None:
        images = images.contiguous(memory_format=options.memory_format)
        optimizer.zero_grad()
        with computing_in(options.precision):
            loss_of(images, labels).backward()
        optimizer.step()

    return step


def step_memory(
    model: str,
    operator: str,
    *,
    batch: int,
    input_size: Sequence[int],
    options: StepOptions = _PLAIN,
) -> dict[str, int]:
    """Peak memory of training steps; on the CPU of this process, which should be a fresh one.

    Network, gradients, state of the optimiser, activations and workspaces all count; what the
    process needed before the network was built does not. The libraries' thread pools and caches
    are created by a tiny step first, so that they do not count.
    """
    training_step(model, operator, MIN_BATCH, input_size, options)()
    make = partial(training_step, model, operator, batch, input_size, options)
    if options.device.type == "cuda":
        return peak_device_memory(make, options.device)

    def steps() -> None:
        step = make()
        for _ in range(2):
            step()

    return peak_memory(steps)
