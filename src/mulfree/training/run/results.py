"""Results of a finished run: test metrics, weights and curves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mulfree import data, models
from mulfree.environment import environment
from mulfree.training.evaluation import evaluate
from mulfree.training.run.checkpoint import WEIGHTS
from mulfree.training.run.report import (
    CURVES,
    METRICS_CSV,
    METRICS_JSON,
    write_csv,
    write_curves,
    write_json,
)

if TYPE_CHECKING:
    from mulfree.training.run.module import RunModule


def final_metrics(
    module: RunModule,
    network: nn.Module,
    companions: Mapping[str, nn.Module],
    splits: data.DataSplits,
    device: torch.device,
) -> dict[str, Any]:
    """Return the content of metrics.json; test images that were not held out are evaluated here.

    Args:
        module: The finished run.
        network: Its network.
        companions: Networks saved beside it, by name.
        splits: The data.
        device: Where to evaluate.
    """
    config, history, task = module.config, module.history, module.method.task
    tested = {name: value for name, value in history[-1].items() if name.startswith("test_")}
    if splits.validation is not None:
        test = data.BatchLoader(
            splits.test,
            config.data.eval_batch_size,
            train=False,
            transform=splits.test_transform,
            device=device,
        )
        network.to(device)
        references: list[tuple[str, nn.Module | None]] = [*companions.items()]
        for name, reference in references or [("", None)]:
            if reference is not None:
                reference.to(device)
            values = evaluate(network, test, reference, task).values(name)
            tested |= {f"test_{key}": value for key, value in values.items()}
        for name, subnet in models.shallower(network).items():
            tested[f"test_{name}_accuracy"] = evaluate(subnet, test, task=task).accuracy
    best, chosen_by = module.best, f"{module.held_out}_{task.metrics.BEST}"
    return {
        "data": config.data.name,
        "model": config.model.name,
        "operator": config.model.operator,
        "method": config.method.name,
        **tested,
        "best_epoch": None if best is None else best["epoch"],
        f"best_{chosen_by}": best and best[chosen_by],
        "epochs": len(history),
        "steps": module.step,
        "seconds": round(sum(row["seconds"] for row in history), 1),
        "parameters": sum(p.numel() for p in network.parameters()),
        "seed": config.trainer.seed,
        "environment": environment(),
    }


def write_results(
    directory: Path,
    module: RunModule,
    network: nn.Module,
    companions: Mapping[str, nn.Module],
    metrics: dict[str, Any],
) -> None:
    """Write weights, history, curves and metrics."""
    models.save_weights(network, directory / WEIGHTS)
    for name, companion in companions.items():
        models.save_weights(companion, directory / companion_file(name))
    # Written again: the run may have been killed between its last checkpoint and these files.
    write_csv(directory / METRICS_CSV, module.history)
    write_curves(directory / CURVES, module.history, module.held_out, module.method.task)
    write_json(directory / METRICS_JSON, metrics)


def companion_file(name: str) -> str:
    """Return the file of the network called `name` that is saved beside the model."""
    return f"{name}.safetensors"
