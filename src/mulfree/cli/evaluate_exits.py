"""The part of `mulfree evaluate` for networks with exits: accuracy and cost over thresholds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mulfree.cli import early_exit
from mulfree.cli.network import kind_of, load_trained
from mulfree.cli.output import print_text
from mulfree.cli.progress import with_progress
from mulfree.errors import ConfigError
from mulfree.tasks.classification.early_exit import exit_curve

if TYPE_CHECKING:
    from mulfree.data import BatchLoader, DataSplits
    from mulfree.models.early_exit import EarlyExitNetwork

Load = Callable[[str], "BatchLoader"]
"""Loader of the images of a part of the data."""


def evaluate_exits(
    model: EarlyExitNetwork, arguments: Any, splits: DataSplits, load: Load
) -> dict[str, Any]:
    """Return the table over thresholds, and print or plot it according to the arguments.

    The threshold that is recommended is chosen on held-out training images alone.
    """
    costs, names = early_exit.float_costs(model), model.outputs
    loader = with_progress(load(arguments.split), "exits")
    logits, labels = early_exit.float_outputs(model, loader)
    totals = [float(count.total) for count in costs]
    points = exit_curve(logits, labels, totals)
    chosen = None
    if splits.validation is not None:
        held_out = early_exit.float_outputs(model, load("validation"))
        threshold = early_exit.chosen_threshold(held_out, costs, arguments.points_lost)
        (chosen,) = exit_curve(logits, labels, totals, [threshold])
    if not arguments.json:
        print_text(early_exit.table(names, points, costs))
        if chosen is None:
            print_text("no threshold is chosen: data.validation holds out no training images")
        else:
            print_text(
                f"chosen on {len(splits.validation or ())} held-out training images, at most "
                f"{arguments.points_lost:g} points lost there:"
            )
            print_text(early_exit.table(names, [chosen], costs))
    if arguments.plot is not None:
        from mulfree import inspection

        curves = {kind_of(model): points}
        static = dict(_static(path, arguments, load, model) for path in arguments.static)
        figure = inspection.plot_exits(curves, static, "operations")
        inspection.save(figure, arguments.plot)
    values: dict[str, Any] = {"exits": early_exit.to_json(names, points, costs)}
    if chosen is not None:
        (values["chosen"],) = early_exit.to_json(names, [chosen], costs)
    return values


def _static(
    path: Path, arguments: Any, load: Load, network: EarlyExitNetwork
) -> tuple[str, tuple[float, float]]:
    """Name of a network without exits, and its cost and accuracy."""
    from mulfree import cost, models, training

    model = load_trained("evaluate", path, arguments.data_name).model
    own, expected = (models.config_of(net).arguments for net in (model, network))
    for key in ("num_classes", "in_channels"):
        if own[key] != expected[key]:
            raise ConfigError(
                f"evaluate: `--static` must be networks with {key} {expected[key]}, got {own[key]} "
                f"of {path}"
            )
    device = next(network.parameters()).device
    result = training.evaluate(model.to(device), load(arguments.split))
    total = cost.count(model, models.input_size(network)).total.cost.total
    return f"{kind_of(model)} {path.stem}", (float(total), result.accuracy)
