"""Sessions of dynamic resolution: choices, order, and entry points that do not fit together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.runtime.graphs import classifier, graph_of, two_outputs

from mulfree.errors import ArtifactError, ConfigError, DTypeError, ShapeError
from mulfree.nodes import Value
from mulfree.runtime import DynamicResolutionSession, Graph, Session, save
from mulfree.runtime.resize import resize_reference

IMAGES = np.random.default_rng(3).integers(0, 256, (9, 1, 6, 6), np.uint8)


def graph(
    side: int, classes: tuple[str, ...], channels: int = 1, height: int | None = None
) -> Graph:
    """One linear layer over the pixels, with random weights."""
    shape = (channels, height or side, side)
    value = Value(name="x", shape=shape, scale=1.0, zero_point=0)
    rng = np.random.default_rng(side)
    weight = rng.integers(-9, 9, (len(classes), value.elements), np.int8)
    if side == 5:
        weight = np.eye(len(classes), value.elements, 7, np.int8)
    made = graph_of(rng, (value,), [classifier(value, weight)])
    made.input.table[:] = np.arange(256)
    return replace(made, classes=classes)


def entries() -> dict[str, Graph]:
    found = {str(side): graph(side, ("cat", "dog")) for side in (6, 4, 3)}
    return {"predictor": graph(5, ("6", "4", "3"))} | found


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_every_image_at_its_resolution_in_its_order(backend: Any, tmp_path: Path) -> None:
    save(entries(), tmp_path / "network.mulfree")
    session = DynamicResolutionSession(tmp_path / "network.mulfree", backend=backend)
    assert session.resolutions == (6, 4, 3)
    assert session.graph.input_value.shape == (1, 6, 6)
    logits = Session(entries()["predictor"]).run(resize_reference(IMAGES, 5))
    sides = np.array([6, 4, 3])[logits.argmax(1)]
    assert len(set(sides.tolist())) > 1
    assert np.array_equal(session.predict_resolution(IMAGES), sides)
    found = session.run(IMAGES)
    for image, side, row in zip(IMAGES, sides.tolist(), found, strict=True):
        own = Session(entries()[str(side)]).run(resize_reference(image[None], side))
        assert np.array_equal(own[0], row)
        assert np.array_equal(session.run_at(image[None], side)[0], row)
    assert session.run(IMAGES[:0]).shape == (0, 2)


def test_of_equal_logits_the_first_is_chosen() -> None:
    parts = entries()
    same = np.ones((3, 25), np.int8)
    value = parts["predictor"].input_value
    made = graph_of(np.random.default_rng(0), (value,), [classifier(value, same)])
    parts["predictor"] = replace(made, classes=("4", "6", "3"))
    session = DynamicResolutionSession(parts)
    assert session.predict_resolution(IMAGES).tolist() == [4] * 9


def _without(name: str) -> Callable[[dict[str, Graph]], Any]:
    return lambda parts: parts.pop(name)


def _with(name: str, made: Callable[[], Graph]) -> Callable[[dict[str, Graph]], Any]:
    return lambda parts: parts.update({name: made()})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("predictor"), "must have the entry point predictor, got 3, 4, 6"),
        (_without("4"), "a predictor whose classes are its other entry points, got 6, 4, 3 and 3"),
        (_with("predictor", lambda: graph(5, ("6", "4"))), "other entry points, got 6, 4 and 3, 4"),
        (_with("more", lambda: graph(6, ("cat", "dog"))), "points, got 6, 4, 3 and 3, 4, 6, more"),
        (
            _with("predictor", lambda: replace(graph(5, ("6", "4", "3")), classes=None)),
            "other entry points, got none and 3, 4, 6",
        ),
        (_with("4", lambda: graph(5, ("cat", "dog"))), "named by their sides, got 4 of 5 x 5"),
        (
            _with("4", lambda: graph(4, ("cat", "dog"), height=3)),
            "square inputs of at most 4096 pixels, named by their sides, got 4 of 3 x 4",
        ),
        (_with("4", lambda: graph(4, ("cat", "cow"))), "the same classes everywhere, got 4"),
        (_with("4", lambda: graph(4, ("a", "b", "c"))), "the same classes everywhere, got 4"),
        (_with("4", lambda: graph(4, ("cat", "dog"), 2)), "one number of channels and the same"),
        (
            _with("predictor", lambda: graph(5, ("6", "4", "3"), 3)),
            "must have a predictor of 1 channels, got 3",
        ),
    ],
)
def test_entry_points_that_do_not_fit(
    change: Callable[[dict[str, Graph]], Any], message: str, tmp_path: Path
) -> None:
    parts = entries()
    change(parts)
    save(parts, tmp_path / "network.mulfree")
    with pytest.raises(ArtifactError, match=message):
        DynamicResolutionSession(tmp_path / "network.mulfree")


def test_an_entry_point_of_several_outputs() -> None:
    parts = {"predictor": graph(5, ("3",)), "3": two_outputs()}
    with pytest.raises(ArtifactError, match="one output at every entry point, got several at 3"):
        DynamicResolutionSession(parts)


def test_wrong_arrays() -> None:
    session = DynamicResolutionSession(entries())
    with pytest.raises(DTypeError, match="`array` must be uint8 pixels, got float32"):
        session.run(IMAGES.astype(np.float32))
    with pytest.raises(DTypeError, match="`array` must be uint8 pixels, got list"):
        session.run([1])  # type: ignore[arg-type]
    for shape in ((1, 6, 6), (1, 2, 6, 6), (1, 1, 0, 6), (1, 1, 1, 4097)):
        with pytest.raises(ShapeError, match=r"`array` must have shape \[N, 1, H, W\] with H and"):
            session.run(np.zeros(shape, np.uint8))
    with pytest.raises(ConfigError, match="`resolution` must be one of 3, 4, 6, got 5"):
        session.run_at(IMAGES, 5)
    with pytest.raises(ShapeError, match=r"`resolutions` must have shape \[9\], got \[2\]"):
        session.run_by(IMAGES, np.array([6, 4]))
