"""Counts of a network: one entry for every call of a layer, and totals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mulfree.opcounts import OpCounts


@dataclass(frozen=True, kw_only=True)
class LayerProfile:
    """One call of one layer, for a batch of one.

    Attributes:
        name: Qualified name of the layer in the model, "" for the model itself.
        kind: Name of its class, or of an elementwise function: "silu", "mul".
        operator: Name of its operator, "binary" in a binary twin; None for normalisation, functions
            and layers that are not counted. Of a node of a quantised network, its kind in files.
        call: 0 for the first call in a forward pass, 1 for the second of a shared layer, ...
        input_shape: Shape of its first input.
        output_shape: Shape of its output.
        cost: Arithmetic operations.
        accumulations: Additions among `cost` that sum over taps, one a tap; 0 of a node.
        params: Parameters not met in an earlier entry; of a node, the numbers in its tensors.
        weight_bytes: Bytes of those parameters.
        activation_bytes: Bytes of the output.
        traffic_bytes: Bytes of weights, inputs and output, each moved once; 0 for normalisation and
            nonlinear functions, which are part of the previous layer.
        energy: Energy of `cost` in pJ.
        counted: Whether `cost` is known: operator, normalisation or elementwise function.
    """

    name: str
    kind: str
    operator: str | None
    call: int
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    cost: OpCounts
    accumulations: int
    params: int
    weight_bytes: int
    activation_bytes: int
    traffic_bytes: int
    energy: float
    counted: bool


@dataclass(frozen=True, kw_only=True)
class FunctionProfile:
    """Arithmetic of a function in the forward of a module, which is not counted.

    Attributes:
        function: Name of the function, such as "conv2d" or "matmul".
        module: Qualified name of the module, "" for the model itself.
        calls: Number of calls in one forward pass.
    """

    function: str
    module: str
    calls: int

    def __str__(self) -> str:
        return f"{self.function} in {self.module}" if self.module else self.function


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Sums over a network.

    Attributes:
        cost: Arithmetic operations.
        params: Parameters of the model, also of layers that were not called.
        weight_bytes: Bytes of the parameters.
        activation_bytes: Bytes of the outputs of all listed layers, for a batch of one.
        traffic_bytes: Bytes moved if every layer reads weights and inputs and writes its output
            once.
        energy: Energy of the arithmetic in pJ.
    """

    cost: OpCounts
    params: int
    weight_bytes: int
    activation_bytes: int
    traffic_bytes: int
    energy: float

    @classmethod
    def of(cls, layers: Sequence[LayerProfile]) -> Totals:
        """Sums over layers; a parameter of several of them belongs to the first."""
        return cls(
            cost=sum((layer.cost for layer in layers), OpCounts()),
            params=sum(layer.params for layer in layers),
            weight_bytes=sum(layer.weight_bytes for layer in layers),
            activation_bytes=sum(layer.activation_bytes for layer in layers),
            traffic_bytes=sum(layer.traffic_bytes for layer in layers),
            energy=sum(layer.energy for layer in layers),
        )


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Cost of one forward pass of a network on one input.

    Attributes:
        model: Name of the model.
        input_size: Shape of the input without the batch.
        dtype: Number format that bytes and energy are for; "int8" of a quantised network, though
            not all of it is.
        convention: "exact" or "paper", see `count`.
        normalisation: Whether the arithmetic of normalisation layers is included.
        layers: One entry for every call of a layer that has an operator or parameters.
        total: Sums.
        uncalled: Names of the layers that have parameters and were never called.
        functions: Arithmetic done by functions outside of layers.
        arena_bytes: Memory for the values of one image in a session, of a quantised network.
    """

    model: str
    input_size: tuple[int, ...]
    dtype: str
    convention: str
    normalisation: bool
    layers: tuple[LayerProfile, ...]
    total: Totals
    uncalled: tuple[str, ...] = ()
    functions: tuple[FunctionProfile, ...] = ()
    arena_bytes: int | None = None

    @property
    def uncounted(self) -> tuple[str, ...]:
        """Layers with parameters but arithmetic that no operator declares, and functions.

        A layer is given by its name, a function as "conv2d in body.0".
        """
        layers = (layer.name for layer in self.layers if not layer.counted)
        return (*layers, *map(str, self.functions))
