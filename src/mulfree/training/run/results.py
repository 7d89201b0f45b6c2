"""Results of a finished run: test metrics, weights and curves."""

from __future__ import annotations

from dataclasses import asdict
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


TEACHER = "teacher.safetensors"


def final_metrics(
    module: RunModule,
    network: nn.Module,
    teacher: nn.Module | None,
    splits: data.DataSplits,
    device: torch.device,
) -> dict[str, Any]:
    """Content of metrics.json, with the test images evaluated if others were held out."""
    config, history = module.config, module.history
    tested = {name: value for name, value in history[-1].items() if name.startswith("test_")}
    if splits.validation is not None:
        test = data.BatchLoader(
            splits.test,
            config.data.eval_batch_size,
            train=False,
            transform=splits.test_transform,
            device=device,
        )
        if teacher is not None:
            teacher.to(device)
        result = evaluate(network.to(device), test, teacher)
        tested = {"test_accuracy": result.accuracy, "test_loss": result.loss}
        if result.fidelity is not None:
            tested |= {f"test_{key}": value for key, value in asdict(result.fidelity).items()}
    best = module.best
    return {
        "data": config.data.name,
        "model": config.model.name,
        "operator": config.model.operator,
        "method": config.method.name,
        **tested,
        "best_epoch": None if best is None else best["epoch"],
        f"best_{module.held_out}_accuracy": best and best[f"{module.held_out}_accuracy"],
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
    teacher: nn.Module | None,
    metrics: dict[str, Any],
) -> None:
    """Write the weights, the history, the curves and the metrics."""
    models.save_weights(network, directory / WEIGHTS)
    if teacher is not None:
        models.save_weights(teacher, directory / TEACHER)
    # Written again: the run may have been killed between its last checkpoint and these files.
    write_csv(directory / METRICS_CSV, module.history)
    write_curves(directory / CURVES, module.history, module.held_out)
    write_json(directory / METRICS_JSON, metrics)
