"""Graphs of a session with their native programs; one is in use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mulfree.errors import ConfigError, choices_message
from mulfree.runtime.graph import Graph
from mulfree.runtime.native import compiled, weight_pool

if TYPE_CHECKING:
    from mulfree._native._core import Program


class Programs:
    """Graphs by name, compiled when they are first used. Their programs share packed weights.

    Args:
        graphs: The graphs.
        used: Name of the first one in use.
        native: Whether to compile them; the reference needs no program.
        memory: Bytes that the values of one image may take.

    Attributes:
        used: Name of the graph in use.

    Raises:
        BackendUnavailableError: As `compiled`.
        ConfigError: There is no such graph, or it needs more memory.
    """

    def __init__(
        self, graphs: Mapping[str, Graph], used: str, *, native: bool, memory: int
    ) -> None:
        self.graphs = dict(graphs)
        self._native = native
        # Graphs of one file share arrays. They live as long as this pool.
        self._pool = weight_pool() if native else None
        self._memory = memory
        self._made: dict[str, Program] = {}
        self.used = self._checked(used)

    @property
    def graph(self) -> Graph:
        """The graph in use."""
        return self.graphs[self.used]

    @property
    def arena_bytes(self) -> int:
        """Bytes of the values of one image."""
        return self._arena_bytes(self.used)

    def use(self, name: str) -> None:
        """Use another graph.

        Raises:
            BackendUnavailableError: As `compiled`.
            ConfigError: There is no such graph, or it needs more memory.
        """
        self.used = self._checked(name)

    def compile_all(self) -> None:
        """Compile the graphs that were not used yet.

        Raises:
            BackendUnavailableError: As `compiled`.
        """
        for name in self.graphs if self._native else ():
            self._program(name)

    def ready(self) -> Program:
        """Return the program in use."""
        return self._program(self.used)

    def abandon(self) -> list[Program]:
        """Forget all programs, and return them: one may be in a state that no one can repair."""
        made = list(self._made.values())
        self._made = {}
        return made

    def _checked(self, name: str) -> str:
        if name not in self.graphs:
            raise ConfigError(choices_message("Session", "depth", name, self.graphs))
        needed = self._arena_bytes(name)
        if needed > self._memory:
            raise ConfigError(
                f"Session: `memory` must be at least {needed} bytes for this network, "
                f"got {self._memory}"
            )
        return name

    def _arena_bytes(self, name: str) -> int:
        if self._native:
            return self._program(name).arena_bytes
        # The reference keeps all values of an image.
        return sum(value.elements for value in self.graphs[name].values)

    def _program(self, name: str) -> Program:
        if name not in self._made:
            self._made[name] = compiled(self.graphs[name], self._pool)
        return self._made[name]
