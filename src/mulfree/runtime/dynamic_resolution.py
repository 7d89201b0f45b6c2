"""Sessions of quantised networks of dynamic resolution: each image at a resolution of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mulfree.errors import ArtifactError, ConfigError, DTypeError, ShapeError, choices_message
from mulfree.runtime.artifact import load_entries
from mulfree.runtime.graph import Graph
from mulfree.runtime.resize import MAX_SIDE, resize
from mulfree.runtime.session import MEMORY, Backend, Session

PREDICTOR = "predictor"
"""Entry point of the predictor; the others are resolutions, as "32"."""


class DynamicResolutionSession:
    """Predictor and classifier at all resolutions, ready to run, integers all through.

    Images are resized by `runtime.resize`; the largest logit of the predictor, of equal ones the
    first, chooses the resolution of an image, and the images of a resolution are one batch.

    Args:
        source: File of `runtime.save`, or the entry points by name: `predictor`, whose classes are
            the resolutions, and one for each of them, such as `32`.
        threads: As of `Session`.
        backend: As of `Session`.
        memory: As of `Session`, for the entry points one at a time.

    Attributes:
        predictor: Session of the predictor.
        networks: Sessions of the classifier by resolution, in the order of the predictor's logits.

    Raises:
        ArtifactError: The file is damaged, or its entry points do not fit together.
        BackendUnavailableError: As of `Session`.
        ConfigError: As of `Session`.
        OutOfMemoryError: As of `Session`.

    References:
        arXiv 2106.02898.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | Mapping[str, Graph],
        *,
        threads: int | None = None,
        backend: Backend = "native",
        memory: int = MEMORY,
    ) -> None:
        graphs = source if isinstance(source, Mapping) else load_entries(source)
        sides = _checked(graphs)
        options: dict[str, Any] = {"threads": threads, "backend": backend, "memory": memory}
        self.predictor = Session(graphs[PREDICTOR], **options)
        self.networks = {side: Session(graphs[str(side)], **options) for side in sides}

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Sides of the images of the classifier, in the order of the predictor's logits."""
        return tuple(self.networks)

    @property
    def graph(self) -> Graph:
        """The classifier at the largest resolution: shape and classes for a caller."""
        return self.networks[max(self.networks)].graph

    def run(self, array: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the logits of images, each at its predicted resolution.

        Args:
            array: Pixels `[N, C, H, W]` of any size. N may be 0.

        Returns:
            `[N, O]`, in the order of the images.

        Raises:
            ShapeError: `array` is of another rank, number of channels, or side.
            DTypeError: `array` is not uint8.
            OutOfMemoryError: There is no memory for the values.
        """
        return self.run_by(array, self.predict_resolution(array))

    def predict_resolution(self, array: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return the resolution of each image, its side in pixels, `[N]`; errors as in `run`."""
        logits = self.predictor.run(self._resized(array, self.predictor.graph))
        chosen: NDArray[np.int64] = np.array(self.resolutions, np.int64)[logits.argmax(axis=1)]
        return chosen

    def run_at(self, array: NDArray[np.uint8], resolution: int) -> NDArray[np.float32]:
        """Return the logits of images at one resolution; errors as in `run`.

        Raises:
            ConfigError: There is no such resolution.
        """
        if resolution not in self.networks:
            known = map(str, self.networks)
            raise ConfigError(
                choices_message("DynamicResolutionSession", "resolution", resolution, known)
            )
        session = self.networks[resolution]
        return session.run(self._resized(array, session.graph))

    def run_by(
        self, array: NDArray[np.uint8], resolutions: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Return the logits of images at resolutions given for each, `[N]`; errors as in `run_at`.

        Raises:
            ShapeError: There is not one resolution for each image.
        """
        if resolutions.shape != (len(array),):
            raise ShapeError(
                f"DynamicResolutionSession: `resolutions` must have shape [{len(array)}], "
                f"got {list(resolutions.shape)}"
            )
        out = np.empty((len(array), self.graph.outputs), np.float32)
        for side in np.unique(resolutions).tolist():
            own = np.flatnonzero(resolutions == side)
            out[own] = self.run_at(array[own], side)
        return out

    def _resized(self, array: NDArray[np.uint8], graph: Graph) -> NDArray[np.uint8]:
        channels, side, _ = graph.input_value.shape
        if getattr(array, "dtype", None) != np.uint8:
            raise DTypeError(
                "DynamicResolutionSession: `array` must be uint8 pixels, got "
                f"{getattr(array, 'dtype', type(array).__name__)}"
            )
        shape = array.shape
        if (
            len(shape) != 4
            or shape[1] != channels
            or not 1 <= min(shape[2:]) <= max(shape[2:]) <= MAX_SIDE
        ):
            raise ShapeError(
                f"DynamicResolutionSession: `array` must have shape [N, {channels}, H, W] with H "
                f"and W from 1 to {MAX_SIDE}, got {list(shape)}"
            )
        return resize(array, side)


def is_dynamic_resolution(entries: Mapping[str, Graph]) -> bool:
    """Return whether entry points are of a network of dynamic resolution."""
    return PREDICTOR in entries


def _checked(graphs: Mapping[str, Graph]) -> list[int]:
    """Sides of the entry points of the classifier, in the order of the predictor's logits.

    Raises:
        ArtifactError: The entry points do not fit together.
    """
    if PREDICTOR not in graphs:
        raise _error(f"have the entry point {PREDICTOR}", ", ".join(sorted(graphs)))
    names = graphs[PREDICTOR].classes or ()
    if not names or set(names) != set(graphs) - {PREDICTOR}:
        raise _error(
            "have a predictor whose classes are its other entry points",
            f"{', '.join(names) or 'none'} and {', '.join(sorted(set(graphs) - {PREDICTOR}))}",
        )
    found = list(_inputs(graphs))
    channels, outputs, classes = found[1][1:]
    for name, *facts in found:
        if name != PREDICTOR and facts != [channels, outputs, classes]:
            raise _error("have one number of channels and the same classes everywhere", name)
    if found[0][1] != channels:
        raise _error(f"have a predictor of {channels} channels", str(found[0][1]))
    return [int(name) for name in names]


def _inputs(graphs: Mapping[str, Graph]) -> Iterator[tuple[str, int, int, Any]]:
    """Name, channels, outputs and classes of every entry point, the predictor first."""
    for name in (PREDICTOR, *(graphs[PREDICTOR].classes or ())):
        graph = graphs[name]
        channels, height, width = graph.input_value.shape
        if height != width or height > MAX_SIDE or name not in (PREDICTOR, str(height)):
            raise _error(
                f"have square inputs of at most {MAX_SIDE} pixels, named by their sides",
                f"{name} of {height} x {width}",
            )
        if len(graph.output_sizes) != 1:
            raise _error("have one output at every entry point", f"several at {name}")
        yield name, channels, graph.outputs, graph.classes


def _error(required: str, got: str) -> ArtifactError:
    return ArtifactError(f"DynamicResolutionSession: `source` must {required}, got {got}")
