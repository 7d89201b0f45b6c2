from collections.abc import Mapping, Sequence
from typing import Protocol

class _Array(Protocol):
    """A C-contiguous CPU array of the dtype named (numpy, torch, any DLPack)."""

    def __dlpack__(self) -> object: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...

_Pair = tuple[int, int]

# Floats: float32 or float64 of rank 4.

# False where there is no kernel for arrays in channels_last, [N, H, W, C]: `out` is incomplete.

def adder2d_forward(
    x: _Array,
    w: _Array,
    out: _Array,
    stride: _Pair,
    padding: _Pair,
    dilation: _Pair,
    groups: int,
    threads: int,
    isa: str,
    channels_last: bool = False,
) -> bool: ...

class _Gradient(Protocol):
    def __call__(
        self,
        g: _Array,
        x: _Array,
        w: _Array,
        out: _Array,
        stride: _Pair,
        padding: _Pair,
        dilation: _Pair,
        groups: int,
        rule: str,
        threads: int,
        isa: str,
        channels_last: bool = False,
    ) -> bool: ...

adder2d_input_grad: _Gradient
adder2d_weight_grad: _Gradient

def supported_isas() -> list[str]: ...

# Integers: a wrong value is a ValueError, a wrong dtype or rank a TypeError.

def int8_isas() -> list[str]:
    """Instruction sets with integer kernels that this machine runs, best first."""

class _Sums(Protocol):
    """Out i32 [N, Ho, Wo, O] of x u8 [N, H, W, C] and w [O, Kh, Kw, C / g]."""

    def __call__(
        self,
        x: _Array,
        w: _Array,
        out: _Array,
        stride: _Pair,
        padding: _Pair,
        zero: int,
        groups: int,
        threads: int,
        isa: str,
    ) -> None: ...

adder2d_u8: _Sums  # -sum |x - w|, w u8
conv2d_s8: _Sums  # sum x * w, w i8

def node_kernels() -> list[str]:
    """Kinds of nodes with a native kernel."""

class WeightPool:
    """Packed weights that programs share, by the address of the arrays that they are of.

    These arrays must be neither changed nor freed before the pool.
    """

    def __init__(self) -> None: ...
    def __len__(self) -> int: ...
    @property
    def bytes(self) -> int:
        """Memory of the packed weights."""

class Program:
    """An integer network: values u8 [H, W, C] per image, nodes that run in the order given.

    Add values, the input and nodes, then `compile` once, then `run` any number of times. Every
    value is written by one node, before it is read. Memory is safe whatever the arguments; the
    arithmetic equals the reference for nodes of a checked graph.
    """

    def __init__(self, isa: str = "", pool: WeightPool | None = None) -> None: ...
    def value(self, channels: int, height: int, width: int, zero: int) -> int: ...
    def input(self, y: int, table: _Array) -> None:
        """The first value: table u8 [C, 256] of pixels, or what a quantised run gives."""

    def append(
        self, op: str, reads: Sequence[int], writes: int | None, fields: Mapping[str, object]
    ) -> None:
        """Add a node; `writes` is None for one that adds outputs to the row of an image."""

    def lifetimes(self) -> list[tuple[int, int, int]]:
        """Bytes, first and last op of each block of memory, once all nodes are appended."""

    def compile(self, offsets: Sequence[int], size: int) -> None:
        """Place the blocks in an arena of `size` bytes; nothing can be added afterwards."""

    def run(
        self, input: _Array, output: _Array, quantised: bool, threads: int, memory: int = ...
    ) -> None:
        """Output f32 [N, O] of input u8 [N, C, H, W]. Calls from several threads take turns.

        At most `memory` bytes are taken for the values of images. Signals of Python are handled
        during a long run on the main thread; where a handler raises, the run ends with that.
        """

    def run_exits(
        self,
        input: _Array,
        output: _Array,
        taken: _Array,
        thresholds: Sequence[float],
        entropy: bool,
        quantised: bool,
        threads: int,
        memory: int = ...,
    ) -> None:
        """As `run` for outputs of one size; an image leaves at the first that is confident enough.

        Output f32 [N, size] holds the logits of the exit taken, whose number goes to taken i64 [N].
        """

    def profile(
        self, input: _Array, output: _Array, quantised: bool, threads: int, memory: int = ...
    ) -> list[float]:
        """As `run`; the seconds of the input and then of each node, over all images."""

    @property
    def arena_bytes(self) -> int:
        """Memory for the values of one image."""

    def describe(self) -> list[str]:
        """The kernel of the input and then of each node."""
