"""Networks with exits: thresholds chosen on held-out images, accuracy and cost over thresholds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from mulfree import cost, inspection, models, training
from mulfree.cli import early_exit
from mulfree.cli.kinds.kind import Accuracy, Findings, Integers, Job, Kind, Part, share_correct
from mulfree.cli.network import kind_of, load_trained
from mulfree.cli.progress import with_progress
from mulfree.errors import ConfigError
from mulfree.models.early_exit import AllExits, EarlyExitNetwork
from mulfree.quantization import quantize
from mulfree.runtime import Exits, Graph
from mulfree.tasks.classification.early_exit import exit_curve


class EarlyExit(Kind):
    """Networks with exits."""

    network = EarlyExitNetwork
    has_plot = True
    has_exits = True
    parts_name = "exits"

    def quantize(
        self, job: Job, images: Sequence[Tensor], bits: int, options: Mapping[str, Any]
    ) -> Integers:
        """Return the integers of all exits, with the threshold of the option or a chosen one.

        Raises:
            ConfigError: No images are held out to choose a threshold on.
        """
        assert isinstance(job.model, EarlyExitNetwork)
        graph = quantize(AllExits(job.model), images, bits, **options)
        threshold = job.words.threshold
        if threshold is None:
            threshold = _chosen(graph, job)
        count = len(graph.output_sizes) - 1
        return replace(graph, exits=Exits(thresholds=(float(threshold),) * count))

    def integer_accuracies(self, job: Job, integers: Integers, label: str) -> Iterator[Accuracy]:
        """Yield the accuracy, with the share of the images that leave at each exit."""
        assert isinstance(integers, Graph)
        assert integers.exits is not None
        session = early_exit.open_session("quantize", integers, job.words.threads)
        taken = Counter[str | None]()

        def run(images: NDArray[Any]) -> NDArray[np.float32]:
            logits, exits = early_exit.classified(session, images)
            taken.update(exits)
            return logits

        found = share_correct(run, job.loader(), label)
        total = taken.total()
        shares = ", ".join(f"{name} {taken[name] / total:.1%}" for name in integers.output_sizes)
        note = f"  threshold {integers.exits.thresholds[0]:.4g}: {shares}"
        yield Accuracy(found, note=note)

    def evaluate(self, job: Job) -> Findings:
        """Return the table over thresholds, and plot it.

        The threshold that is recommended is chosen on held-out training images alone.
        """
        model, words, splits = job.model, job.words, job.splits
        assert isinstance(model, EarlyExitNetwork)
        costs, names = early_exit.float_costs(model), model.outputs
        totals = [float(count.total) for count in costs]
        loader = with_progress(job.loader(words.split), "exits")
        logits, labels = early_exit.float_outputs(model, loader)
        points = exit_curve(logits, labels, totals)
        values: dict[str, Any] = {"exits": early_exit.to_json(names, points, costs)}
        texts = [early_exit.table(names, points, costs)]
        if splits.validation is None:
            texts.append("no threshold is chosen: data.validation holds out no training images")
        else:
            held_out = early_exit.float_outputs(model, job.loader("validation"))
            threshold = early_exit.chosen_threshold(held_out, costs, words.points_lost)
            chosen = exit_curve(logits, labels, totals, [threshold])
            (values["chosen"],) = early_exit.to_json(names, chosen, costs)
            texts += [
                f"chosen on {len(splits.validation)} held-out training images, at most "
                f"{words.points_lost:g} points lost there:",
                early_exit.table(names, chosen, costs),
            ]
        if words.plot is not None:
            static = dict(_static(path, job) for path in words.static)
            figure = inspection.plot_exits({kind_of(model): points}, static, "operations")
            inspection.save(figure, words.plot)
        return Findings(values=values, text="\n".join(texts))

    def whole(self, model: nn.Module) -> nn.Module:
        """Return the network with all its exits: an image that never leaves passes them."""
        assert isinstance(model, EarlyExitNetwork)
        return AllExits(model)

    def count(self, model: nn.Module, **options: Any) -> cost.Profile:
        """Count the network with all its exits, layers by their names in it."""
        profile = super().count(model, **options)
        prefix = "network."
        return replace(
            profile,
            layers=tuple(
                replace(layer, name=layer.name.removeprefix(prefix)) for layer in profile.layers
            ),
            functions=tuple(
                replace(function, module=function.module.removeprefix(prefix))
                for function in profile.functions
            ),
        )

    def parts(self, model: nn.Module, input_size: tuple[int, ...] | None) -> dict[str, Part]:
        """Return what an image runs through that leaves at each exit."""
        assert isinstance(model, EarlyExitNetwork)
        size = input_size or models.input_size(model)
        networks = cost.networks_to_exits(model)
        return {name: Part(network, size) for name, network in networks.items()}


def _chosen(graph: Graph, job: Job) -> float:
    """Threshold chosen on held-out training images.

    Raises:
        ConfigError: None are held out.
    """
    if job.splits.validation is None:
        raise ConfigError(
            "quantize: `--threshold` must be given for a network with exits whose data.validation "
            "holds out no training images to choose it on"
        )
    outputs = early_exit.integer_outputs(graph, job.loader("validation"), job.words.threads)
    costs = list(graph.counts_to_outputs().values())
    return early_exit.chosen_threshold(outputs, costs, job.words.points_lost)


def _static(path: Path, job: Job) -> tuple[str, tuple[float, float]]:
    """Name of a network without exits, and its cost and accuracy.

    Raises:
        ConfigError: It is for other images or classes.
    """
    model = load_trained("evaluate", path, job.words.data_name).model
    own, expected = (models.config_of(net).arguments for net in (model, job.model))
    for key in ("num_classes", "in_channels"):
        if own[key] != expected[key]:
            raise ConfigError(
                f"evaluate: `--static` must be networks with {key} {expected[key]}, got {own[key]} "
                f"of {path}"
            )
    result = training.evaluate(model.to(job.device), job.loader(job.words.split))
    total = cost.count(model, models.input_size(job.model)).total.cost.total
    return f"{kind_of(model)} {path.stem}", (float(total), result.accuracy)


KIND = EarlyExit()
