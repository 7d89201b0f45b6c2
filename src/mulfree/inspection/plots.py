"""Plots of weights, of features in the plane, and of chosen resolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, get_args

import numpy as np

from mulfree.errors import printable
from mulfree.figures import panels
from mulfree.inspection.features import Features
from mulfree.inspection.resolutions import Resolutions
from mulfree.inspection.weights import Law, NetworkWeights, Sample

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Histograms end so many standard deviations from the mean; density counts all values.
_REACH = 5.0
_MIN_BINS, _MAX_BINS = 10, 80
# More names of classes than that are no help.
_MAX_LEGEND = 20
# Longer names leave no room for the points.
_MAX_LABEL = 60


def plot_weights(networks: Sequence[tuple[str, NetworkWeights]], *, layers: bool = False) -> Figure:
    """One panel for each network: its standardised weights and the two fitted densities.

    Args:
        networks: Titles of the panels, and weights.
        layers: Below it, a panel for each of its layers.
    """
    columns = [
        {title: weights.pooled} | (weights.layers if layers else {}) for title, weights in networks
    ]
    rows = max(map(len, columns))
    figure, grid = panels(rows, len(columns), 4.5, 3.4)
    for column, samples in enumerate(columns):
        for row, (title, sample) in enumerate(samples.items()):
            _draw_weights(grid[row][column], title, sample)
            grid[row][column].set_xlabel("weight" if row else "weight, layers standardised")
        for row in range(len(samples), rows):
            grid[row][column].remove()
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def plot_features(networks: Sequence[tuple[str, Features]], classes: Sequence[str]) -> Figure:
    """One panel for each network: every image as a point in the colour of its class.

    Args:
        networks: Titles of the panels, which the accuracy is added to, and points.
        classes: Names of the classes.
    """
    from matplotlib import colormaps

    palette = colormaps["tab10" if len(classes) <= 10 else "turbo"].resampled(len(classes))
    figure, grid = panels(1, len(networks), 4.5, 4.8)
    for axes, (title, found) in zip(grid[0], networks, strict=True):
        for label, name in enumerate(classes):
            x, y = found.points[found.labels == label].T
            axes.scatter(x, y, s=3, linewidths=0, color=palette(label), label=name)
        _set_title(axes, title, f"{found.accuracy:.2%}")
        axes.set_xlabel("feature 1")
        axes.set_ylabel("feature 2")
        axes.grid(alpha=0.3)
    if len(classes) <= _MAX_LEGEND:
        legend = figure.legend(
            grid[0][0].collections,
            [str(label) for label in range(len(classes))],
            loc="outside lower center",
            ncols=5,
            markerscale=3,
        )
        # Afterwards: a legend leaves out labels that begin with an underscore.
        for text, name in zip(legend.get_texts(), classes, strict=True):
            text.set(text=printable(name, _MAX_LABEL), parse_math=False)
    return figure


def plot_resolutions(found: Resolutions, mean: Sequence[float], std: Sequence[float]) -> Figure:
    """Histogram of the chosen resolutions, and the easiest and the hardest images.

    Args:
        found: Choices of a network.
        mean: Mean that the images were normalised by, a number a channel.
        std: Standard deviation, likewise.
    """
    columns = max(1, len(found.easiest))
    figure, grid = panels(3, columns, 1.1, 1.4)
    for axes in grid[0]:
        axes.remove()
    histogram = figure.add_subplot(3, 1, 1)
    shares = [count / sum(found.images) for count in found.images]
    labels = [
        f"{side}\n{alone:.1%} alone"
        for side, alone in zip(found.sides, found.accuracies, strict=True)
    ]
    histogram.bar(labels, shares, color="grey")
    histogram.set_ylabel("share of images")
    cost = found.mean_operations / max(found.operations)
    _set_title(histogram, f"accuracy {found.accuracy:.2%}", f"mean cost {cost:.1%} of the largest")
    for row, title, images in zip(
        grid[1:], ("easiest", "hardest"), (found.easiest, found.hardest), strict=True
    ):
        row[0].set_title(title, fontsize=9, loc="left")
        for axes, image in zip(row, images.float().numpy(), strict=False):
            pixels = image.transpose(1, 2, 0) * np.asarray(std) + np.asarray(mean)
            axes.imshow(pixels.clip(0, 1).squeeze(), cmap="grey", vmin=0, vmax=1)
            axes.set_xticks([])
            axes.set_yticks([])
    return figure


def _set_title(axes: Axes, title: str, result: str) -> None:
    """A heading of one or more lines, names of files among them, and the line of its result."""
    lines = [*(printable(line, _MAX_LABEL) for line in title.split("\n")), result]
    axes.set_title("\n".join(lines), fontsize=9, parse_math=False)


def _draw_weights(axes: Axes, title: str, sample: Sample) -> None:
    values, found = sample.values, sample.fit
    reach = (found.mean - _REACH * found.std, found.mean + _REACH * found.std)
    bins = min(max(math.isqrt(found.count), _MIN_BINS), _MAX_BINS)
    counts, edges = np.histogram(values, bins, reach)
    heights = counts / (found.count * np.diff(edges))
    axes.stairs(heights, edges, fill=True, color="lightgrey", label="weights")
    x = np.linspace(*reach, 501)
    law: Law
    for law in get_args(Law):
        axes.plot(x, found.density(law, x), label=law.capitalize())
    result = f"{found.better.capitalize()} by {abs(found.difference):.4f} nats"
    _set_title(axes, title, f"{result}, excess kurtosis {found.kurtosis:.2f}")
    axes.set_ylabel("density")
    axes.grid(alpha=0.3)
