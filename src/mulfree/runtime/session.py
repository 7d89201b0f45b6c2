"""Sessions: a graph compiled for the native kernels once; a run allocates nothing."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from mulfree._native import MAX_THREADS
from mulfree.errors import (
    ConfigError,
    DTypeError,
    OutOfMemoryError,
    ShapeError,
    choices_message,
    quoted,
)
from mulfree.runtime import artifact, reference
from mulfree.runtime.graph import Graph
from mulfree.runtime.profile import NodeProfile, node_profiles
from mulfree.runtime.programs import Programs
from mulfree.runtime.source import Source, load_depths, load_graph

if TYPE_CHECKING:
    from mulfree._native._core import Program

Backend = Literal["native", "reference"]

MEMORY = 2**31
"""Bytes that a session's values take at most, unless it is given another limit."""

_BACKENDS = ("native", "reference")
_MAX_MEMORY = 2**62
_THREADS_VARIABLE = "OMP_NUM_THREADS"


class Session:
    """Quantised network, ready to run.

    Results are the integers that `reference` defines, whatever the processor and the number of
    threads. A session may be used from several Python threads; their runs take turns. It can be
    copied, pickled, used in processes that are forked and in signal handlers.

    Args:
        source: File of `runtime.save`, its content, a file object open for reading bytes, or a
            graph.
        threads: Threads of the native kernels; by default as many as processors may be used, at
            most the number in `OMP_NUM_THREADS`.
        backend: "native", or "reference" for the definition in numpy, slow.
        memory: Bytes that the values of images in work may take; weights and the arrays of the
            caller do not count. Where it is short of one image a thread, threads share images.
        entry: Name of the entry point of a file that has several.
        depth: Name of the entry point of a depth-dynamic network to start with; `session.depth =`
            another one changes it. A depth is compiled when it is first used, or by
            `compile_depths`; depths share the weights that they have in common.

    Attributes:
        threads: Threads in use.
        backend: As given.
        memory: As given.

    Raises:
        ArtifactError: The file is damaged or not what it claims.
        BackendUnavailableError: The native kernels were not built, or `MULFREE_ISA` names an
            instruction set that does not run here.
        ConfigError: `source`, `threads`, `backend`, `entry` or `depth` is not possible, or one
            image needs more than `memory`.
        OutOfMemoryError: There is no memory for the weights.
    """

    def __init__(
        self,
        source: Source,
        *,
        threads: int | None = None,
        backend: Backend = "native",
        memory: int = MEMORY,
        entry: str | None = None,
        depth: str | None = None,
    ) -> None:
        if backend not in _BACKENDS:
            raise ConfigError(choices_message("Session", "backend", backend, _BACKENDS))
        self.backend = backend
        self.threads = default_threads() if threads is None else threads
        _check_int("Session", "threads", self.threads, MAX_THREADS)
        self.memory = memory
        _check_int("Session", "memory", memory, _MAX_MEMORY)
        if entry is not None and depth is not None:
            raise ConfigError(
                f"Session: `entry` must be left out with `depth`, got {quoted(entry)}"
            )
        self._has_depths = depth is not None
        name = artifact.MAIN if depth is None else depth
        graphs = {name: load_graph(source, entry)} if depth is None else load_depths(source)
        with within_memory("Session"):
            self._programs = Programs(graphs, name, native=backend == "native", memory=memory)
        self._lock = threading.RLock()
        self._running = False
        _sessions.add(self)
        # Of the last batch of floats, kept for the next.
        self._quantised: NDArray[np.uint8] | None = None
        self._steps: NDArray[np.float32] | None = None

    @property
    def graph(self) -> Graph:
        """The network, at the depth in use."""
        return self._programs.graph

    @property
    def arena_bytes(self) -> int:
        """Bytes of the values of one image in work, at the depth in use."""
        return self._programs.arena_bytes

    @property
    def depths(self) -> tuple[str, ...]:
        """Names of the depths; none for a session that was opened without `depth`."""
        return tuple(self._programs.graphs) if self._has_depths else ()

    @property
    def depth(self) -> str | None:
        """Name of the depth in use; None for a session that was opened without.

        Setting it changes the depth of the following runs; a run in another thread ends before.
        """
        return self._programs.used if self._has_depths else None

    @depth.setter
    def depth(self, name: str) -> None:
        if not self._has_depths:
            raise ConfigError(
                f"Session: `depth` must be given when a session is opened, got {quoted(name)} later"
            )
        with self._lock, within_memory("Session"):
            if self._running:
                raise ConfigError(
                    "Session: `depth` must not be set within a run, as by a signal handler, got "
                    f"{quoted(name)}"
                )
            self._programs.use(name)

    def compile_depths(self) -> None:
        """Compile all depths now instead of on their first use; errors as of the session."""
        with self._lock, within_memory("Session"):
            self._programs.compile_all()

    def run(
        self, array: NDArray[Any], *, out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Return the logits of images.

        Args:
            array: `[N, C, H, W]`, or `[C, H, W]` for one: uint8 pixels, or float32 normalised as
                the graph's `Input` defines. N may be 0.
            out: Memory for the logits, `[N, O]`; a new array by default.

        Returns:
            `[N, O]`, float32: `out` if given.

        Raises:
            ShapeError: `array` is not of the graph's input shape, or `out` not of the output's or
                not contiguous.
            DTypeError: `array` is neither uint8 nor float32, or `out` not writable float32.
            ConfigError: The network has several outputs.
            OutOfMemoryError: There is no memory for the values.
        """
        if len(self.graph.output_sizes) > 1:
            names = ", ".join(self.graph.output_sizes)
            raise ConfigError(
                f"Session.run: the network must have one output, got {names}: use `run_all`"
            )
        with self._lock, within_memory("Session.run"):
            array = reference.checked_input(self.graph, array)
            out = self._checked_output(out, len(array))
            self._run(array, out)
        return out

    def run_all(self, array: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
        """Return the logits of every output by name; arguments and errors as in `run`."""
        with self._lock, within_memory("Session.run_all"):
            array = reference.checked_input(self.graph, array)
            sizes = self.graph.output_sizes
            out = np.empty((len(array), sum(sizes.values())), np.float32)
            self._run(array, out)
            parts = np.split(out, np.cumsum(list(sizes.values()))[:-1], axis=1)
            return {name: part.copy() for name, part in zip(sizes, parts, strict=True)}

    def _run(self, array: NDArray[Any], out: NDArray[np.float32]) -> None:
        """Write the logits of all outputs side by side, `[N, sum of their sizes]`."""
        if len(array) == 0:
            return
        # Logits are written while later images are still to be read.
        array = array.copy() if np.may_share_memory(array, out) else array
        if self.backend == "reference":
            logits = reference.run_all(self.graph, array)
            np.concatenate(list(logits.values()), axis=1, out=out)
            return
        with self._turn() as (session, program):
            program.run(*session._integers(array, out), self.threads, self.memory)

    def profile(self, array: NDArray[Any], *, runs: int = 10) -> list[NodeProfile]:
        """Return time and operations of every node.

        Args:
            array: As in `run`, at least one image.
            runs: Number of runs; medians are reported. The reference runs once.

        Returns:
            One entry for the input and one for each node, in order.

        Raises:
            ShapeError: As in `run`, or no image.
            DTypeError: As in `run`.
            ConfigError: `runs` is below 1.
            OutOfMemoryError: As in `run`.
        """
        if type(runs) is not int or runs < 1:
            raise ConfigError(f"Session.profile: `runs` must be at least 1, got {quoted(runs)}")
        with self._lock, within_memory("Session.profile"):
            array = reference.checked_input(self.graph, array)
            if len(array) == 0:
                raise ShapeError(
                    f"Session.profile: `array` must hold an image, got {list(array.shape)}"
                )
            if self.backend == "reference":
                kernels = ["reference"] * (1 + len(self.graph.nodes))
                seconds = reference.seconds(self.graph, array)
            else:
                columns = sum(self.graph.output_sizes.values())
                out = np.empty((len(array), columns), np.float32)
                with self._turn() as (session, program):
                    kernels = program.describe()
                    arguments = (*session._integers(array, out), self.threads, self.memory)
                    measured = [program.profile(*arguments) for _ in range(runs)]
                seconds = np.median(measured, axis=0).tolist()
            return node_profiles(self.graph, kernels, seconds)

    def __reduce__(self) -> tuple[Callable[..., Session], tuple[Any, ...]]:
        """Pickle the content: a copy does not need the file."""
        content = artifact.to_bytes(self._programs.graphs if self._has_depths else self.graph)
        options: Any = {"threads": self.threads, "backend": self.backend, "memory": self.memory}
        if self._has_depths:
            options["depth"] = self.depth
        return functools.partial(type(self), **options), (content,)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[tuple[Session, Program]]:
        """Yield this session and its program once no other thread runs it.

        A signal handler that interrupts a run of its own thread gets a copy: it cannot wait.
        """
        with self._lock:
            if self._running:
                with Session(self.graph, memory=self.memory)._turn() as copied:
                    yield copied
                return
            try:
                self._running = True
                yield self, self._programs.ready()
            finally:
                self._running = False

    def _after_fork(self) -> None:
        """Free in a new process what another thread of the old one may have held."""
        if self._running:
            # Neither used nor destroyed again: that thread was changing it.
            _abandoned.extend(self._programs.abandon())
            self._quantised = self._steps = None
        self._lock = threading.RLock()
        self._running = False

    def _checked_output(self, out: NDArray[np.float32] | None, images: int) -> NDArray[np.float32]:
        shape = (images, self.graph.outputs)
        if out is None:
            return np.empty(shape, np.float32)
        dtype = getattr(out, "dtype", type(out).__name__)
        array = isinstance(out, np.ndarray) and not isinstance(out, np.ma.MaskedArray)
        if not array or dtype != np.float32 or not out.flags.writeable:
            raise DTypeError(f"Session.run: `out` must be a writable float32 array, got {dtype}")
        if out.shape != shape or not (out.flags.c_contiguous and out.flags.aligned):
            raise ShapeError(
                f"Session.run: `out` must be contiguous of shape {list(shape)}, "
                f"got {list(out.shape)}"
            )
        return out

    def _integers(
        self, array: NDArray[Any], out: NDArray[np.float32]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32], bool]:
        """Return input and output of the native kernels, and True for quantised input."""
        if array.dtype == np.uint8:
            return np.ascontiguousarray(array), out, False
        if self._quantised is None or self._quantised.shape != array.shape:
            self._quantised = np.empty(array.shape, np.uint8)
            self._steps = np.empty(array.shape, np.float32)
        value = self.graph.input_value
        reference.quantise(array, value, steps=self._steps, out=self._quantised)
        return self._quantised, out, True


# Sessions to repair after a fork, and programs that it left in the middle of a run.
_sessions: weakref.WeakSet[Session] = weakref.WeakSet()
_abandoned: list[Program] = []


def _after_fork() -> None:
    for session in _sessions:
        session._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _check_int(function: str, name: str, value: object, high: int) -> None:
    if type(value) is not int or not 1 <= value <= high:
        raise ConfigError(f"{function}: `{name}` must be an int in 1..{high}, got {quoted(value)}")


@contextlib.contextmanager
def within_memory(function: str) -> Iterator[None]:
    """Turn a lack of memory in `function` into an OutOfMemoryError."""
    try:
        yield
    except MemoryError as error:
        raise OutOfMemoryError(
            f"{function}: the network must fit into the memory that is free ({error})"
        ) from error


def default_threads() -> int:
    """Return the processors of this process, at most the first number in `OMP_NUM_THREADS`."""
    if hasattr(os, "sched_getaffinity"):
        available = len(os.sched_getaffinity(0))
    else:
        available = os.cpu_count() or 1
    wanted = os.environ.get(_THREADS_VARIABLE, "").partition(",")[0].strip()
    if wanted.isdecimal() and int(wanted) >= 1:
        available = min(available, int(wanted))
    return min(available, MAX_THREADS)
