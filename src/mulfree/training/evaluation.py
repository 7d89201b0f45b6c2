"""Evaluation of a network on a set of images."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from mulfree.errors import DataError
from mulfree.tasks import Task, get_task
from mulfree.tasks.classification.metrics import Evaluation
from mulfree.training.method import Batch


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    reference: nn.Module | None = None,
    task: Task | None = None,
) -> Evaluation:
    """Return the metrics of `model` in evaluation mode over all `batches`.

    The networks are left in the mode they were in.

    Args:
        model: Maps images `[N, C, H, W]` to the outputs of the task.
        batches: Images and targets, on the model's device; images get the dtype of its parameters.
        reference: A network of the same task to compare it with.
        task: The task; classification by default.

    Raises:
        DataError: There was no batch.
    """
    task = get_task() if task is None else task
    networks = [model] if reference is None else [model, reference]
    dtypes = [next((p.dtype for p in network.parameters()), None) for network in networks]
    training = [network.training for network in networks]
    evaluator = task.metrics.Evaluator()
    count = 0
    for network in networks:
        network.eval()
    try:
        for images, targets in batches:
            outputs = [
                task.criterion.at_least_float32(network(images.to(dtype)))
                for network, dtype in zip(networks, dtypes, strict=True)
            ]
            evaluator.update(outputs[0], targets, *outputs[1:])
            count += task.targets.count(targets)
    finally:
        for network, mode in zip(networks, training, strict=True):
            network.train(mode)
    if not count:
        raise DataError("evaluate: `batches` must hold at least one batch, got none")
    result: Evaluation = evaluator.compute()
    return result
