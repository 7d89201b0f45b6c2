"""Sessions with early exit: an image leaves at the first output that is confident enough."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mulfree.errors import ConfigError
from mulfree.runtime import reference
from mulfree.runtime.exits import CONFIDENCES, Exits, check_confidence, check_thresholds
from mulfree.runtime.graph import Graph
from mulfree.runtime.merge import merge
from mulfree.runtime.session import MEMORY, Backend, Session, within_memory
from mulfree.runtime.source import Source, load_graph


class ExitResult(NamedTuple):
    """Answers of a network with exits.

    Attributes:
        logits: Of the exit at which each image left, `[N, O]`, float32.
        exits: Number of that exit, `[N]`, int64, from 0.
    """

    logits: NDArray[np.float32]
    exits: NDArray[np.int64]


class EarlyExitSession(Session):
    """Quantised network whose images leave at the first output that is confident enough.

    Each image goes through the nodes in order, in memory of its own; after an output that is
    confident enough the nodes that follow are left out. The integers up to the exit taken equal
    the integers of `run_all`, whatever the batch and the number of threads.

    Args:
        source: As in `Session`; a network with several outputs of one size, such as a file of a
            network with exits, or `merge` of several networks.
        thresholds: Least confidence for leaving at each output but the last; one number for all.
            By default as in the file.
        confidence: Measure of confidence, "probability" (the largest) or "entropy" (1 minus it over
            its largest value). By default as in the file, or "probability".
        threads: As in `Session`.
        backend: As in `Session`.
        memory: As in `Session`.
        entries: Entry points of a file that are merged, in the order of their costs.

    Attributes:
        exits: Thresholds and measure in use.

    Raises:
        ConfigError: The network has one output or outputs of several sizes, `thresholds` does not
            fit or is missing, `confidence` does not exist, or as in `Session`.
        ArtifactError: As in `Session`.
        BackendUnavailableError: As in `Session`.
        OutOfMemoryError: As in `Session`.
    """

    def __init__(
        self,
        source: Source,
        *,
        thresholds: float | Sequence[float] | None = None,
        confidence: str | None = None,
        threads: int | None = None,
        backend: Backend = "native",
        memory: int = MEMORY,
        entries: Sequence[str] | None = None,
    ) -> None:
        if entries is None:
            graph = load_graph(source, None)
        else:
            graph = merge({entry: load_graph(source, entry) for entry in entries})
        self.exits = _exits(graph, thresholds, confidence)
        graph = dataclasses.replace(graph, exits=self.exits)
        super().__init__(graph, threads=threads, backend=backend, memory=memory)

    def run_exits(
        self, array: NDArray[Any], *, out: NDArray[np.float32] | None = None
    ) -> ExitResult:
        """Return the logits of images at the exits that they take.

        Args:
            array: As in `run`.
            out: Memory for the logits, `[N, O]`; a new array by default.

        Raises:
            ShapeError: As in `run`.
            DTypeError: As in `run`.
            OutOfMemoryError: As in `run`.
        """
        array = reference.checked_input(self.graph, array)
        with within_memory("EarlyExitSession.run_exits"):
            out = self._checked_output(out, len(array))
            taken = np.empty(len(array), np.int64)
            if len(array):
                array = array.copy() if np.may_share_memory(array, out) else array
                self._run_exits(array, out, taken)
        return ExitResult(out, taken)

    def _run_exits(
        self, array: NDArray[Any], out: NDArray[np.float32], taken: NDArray[np.int64]
    ) -> None:
        if self.backend == "reference":
            out[:], taken[:] = reference.run_exits(self.graph, array, self.exits)
            return
        limits, entropy = self.exits.thresholds, self.exits.confidence == "entropy"
        with self._turn() as (session, program):
            pixels, _, quantised = session._integers(array, out)
            program.run_exits(
                pixels, out, taken, limits, entropy, quantised, self.threads, self.memory
            )


def _exits(
    graph: Graph, thresholds: float | Sequence[float] | None, confidence: str | None
) -> Exits:
    """Exits of a graph, with thresholds and measure instead of its own where they are given.

    Raises:
        ConfigError: There are none, or they do not fit.
    """
    sizes = graph.output_sizes
    if len(sizes) < 2 or len(set(sizes.values())) > 1:
        raise ConfigError(
            "EarlyExitSession: the network must have several outputs of one size, got "
            f"{dict(sizes)}"
        )
    own = graph.exits
    if thresholds is None and own is None:
        raise ConfigError(
            "EarlyExitSession: `thresholds` must be given, as the file holds none, got None"
        )
    if confidence is None:
        confidence = CONFIDENCES[0] if own is None else own.confidence
    check_confidence("EarlyExitSession", confidence)
    given = own.thresholds if thresholds is None and own is not None else thresholds
    assert given is not None
    limits = check_thresholds("EarlyExitSession", given, len(sizes) - 1)
    return Exits(thresholds=limits, confidence=confidence)
