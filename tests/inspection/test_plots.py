from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mulfree import inspection
from mulfree.inspection import Features, NetworkWeights, Sample


def sample(law: str, count: int = 10_000, scale: float = 1.0) -> Sample:
    rng = np.random.default_rng(0)
    values = (rng.normal if law == "gaussian" else rng.laplace)(0, scale, count)
    return Sample(values=values, fit=inspection.fit(values))


def weights(law: str, layers: int) -> NetworkWeights:
    named = {f"conv{i}": sample(law, 200, scale=i + 1.0) for i in range(layers)}
    return NetworkWeights(layers=named, pooled=sample(law))


def points(seed: int, classes: int) -> Features:
    rng = np.random.default_rng(seed)
    labels = np.arange(4 * classes) % classes
    return Features(points=rng.normal(size=(4 * classes, 2)), labels=labels, accuracy=0.75)


def test_one_panel_of_weights_for_each_network() -> None:
    found = weights("laplace", 3)
    figure = inspection.plot_weights([("cnn", weights("gaussian", 2)), ("ann", found)])
    cnn, ann = figure.axes
    assert cnn.get_title().startswith("cnn\nGaussian by ")
    fit = found.pooled.fit
    assert ann.get_title() == (
        f"ann\nLaplace by {fit.difference:.4f} nats, excess kurtosis {fit.kurtosis:.2f}"
    )
    bars: Any
    (bars,) = ann.patches
    heights, edges, _ = bars.get_data()
    # What is beyond five standard deviations is missing, not spread over the rest.
    inside = np.abs(found.pooled.values - fit.mean) <= 5 * fit.std
    assert 0.99 < inside.mean() < 1
    assert (heights * np.diff(edges)).sum() == pytest.approx(inside.mean())
    peaks = [np.max(line.get_ydata()) for line in ann.lines]
    root = np.sqrt(2 * np.pi)
    # The Laplace density has its peak between two of the points that are drawn.
    assert peaks == pytest.approx([1 / (root * fit.std), 1 / (2 * fit.deviation)], rel=0.02)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["weights", "Gaussian", "Laplace"]


def test_a_panel_for_each_layer() -> None:
    networks = [("cnn", weights("gaussian", 2)), ("ann", weights("laplace", 3))]
    figure = inspection.plot_weights(networks, layers=True)
    titles = [axes.get_title().partition("\n")[0] for axes in figure.axes]
    assert titles == ["cnn", "ann", "conv0", "conv0", "conv1", "conv1", "conv2"]


@pytest.mark.parametrize(("classes", "legends"), [(3, 1), (20, 1), (21, 0)])
def test_one_panel_of_features_for_each_network(classes: int, legends: int) -> None:
    names = [f"class {k}" for k in range(classes)]
    cnn, ann = points(0, classes), points(1, classes)
    figure = inspection.plot_features([("cnn", cnn), ("ann", ann)], names)
    left, right = figure.axes
    assert left.get_title() == "cnn\n75.00%"
    assert [cloud.get_label() for cloud in right.collections] == names
    np.testing.assert_array_equal(right.collections[2].get_offsets(), ann.points[ann.labels == 2])
    clouds: list[Any] = list(left.collections)
    colours = {tuple(cloud.get_facecolor()[0]) for cloud in clouds}
    assert len(colours) == classes
    assert len(figure.legends) == legends


def test_the_file_is_a_png(tmp_path: Path) -> None:
    path = tmp_path / "features.png"
    inspection.save(inspection.plot_features([("cnn", points(0, 2))], ["a", "b"]), path)
    with Image.open(path) as image:
        assert (image.format, image.size) == ("PNG", (540, 576))
    assert [file.name for file in tmp_path.iterdir()] == ["features.png"]


def test_names_are_drawn_as_they_are_spelt(tmp_path: Path) -> None:
    classes = ["$x^$", "_hidden", r"\frac{", "\x1b[31mred", "n" * 100, "a%b#c&d~e{f}"]
    titles = ["e[/red]\n$\\unknown$", "line\n" + "n" * 200]
    figure = inspection.plot_features([(title, points(0, 6)) for title in titles], classes)
    (legend,) = figure.legends
    drawn = [text.get_text() for text in legend.get_texts()]
    assert drawn[:4] == ["$x^$", "_hidden", r"\frac{", r"\x1b[31mred"]
    assert len(drawn[4]) == 60
    assert drawn[5] == "a%b#c&d~e{f}"
    assert figure.axes[0].get_title() == "e[/red]\n$\\unknown$\n75.00%"
    weights_figure = inspection.plot_weights([(titles[0], weights("gaussian", 1))], layers=True)
    for number, made in enumerate((figure, weights_figure)):
        inspection.save(made, tmp_path / f"{number}.png")
        with Image.open(tmp_path / f"{number}.png") as image:
            assert image.width > 100
