from typing import Protocol

class _Array(Protocol):
    """A C-contiguous float32 or float64 CPU array of rank 4 (numpy, torch, any DLPack)."""

    def __dlpack__(self) -> object: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...

def adder2d_forward(
    x: _Array,
    w: _Array,
    out: _Array,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    threads: int,
    isa: str,
) -> None: ...
def adder2d_input_grad(
    g: _Array,
    x: _Array,
    w: _Array,
    out: _Array,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    rule: str,
    threads: int,
    isa: str,
) -> None: ...
def adder2d_weight_grad(
    g: _Array,
    x: _Array,
    w: _Array,
    out: _Array,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    rule: str,
    threads: int,
    isa: str,
) -> None: ...
def supported_isas() -> list[str]: ...

# Integer networks. Arrays are C-contiguous CPU arrays of exactly the dtype named; a wrong value
# is a ValueError, a wrong dtype or rank a TypeError.

def int8_isas() -> list[str]:
    """Instruction sets with integer kernels that this machine runs, best first."""

def adder2d_u8(
    x: _Array,
    w: _Array,
    out: _Array,
    stride: tuple[int, int],
    padding: tuple[int, int],
    zero: int,
    groups: int,
    threads: int,
    isa: str,
) -> None:
    """Out i32 [N, Ho, Wo, O] = -sum |x - w| of x u8 [N, H, W, C] and w u8 [O, Kh, Kw, C / g]."""

def conv2d_s8(
    x: _Array,
    w: _Array,
    out: _Array,
    stride: tuple[int, int],
    padding: tuple[int, int],
    zero: int,
    groups: int,
    threads: int,
    isa: str,
) -> None:
    """Out i32 [N, Ho, Wo, O] = sum x * w of x u8 [N, H, W, C] and w i8 [O, Kh, Kw, C / g]."""

class Program:
    """An integer network: values u8 [H, W, C] per image, nodes that run in the order given.

    Add values and nodes, then `compile()` once, then `run()` any number of times. One input and,
    as the last node, one `linear`. Every value is written by one node, before it is read.
    """

    def __init__(self, isa: str = "") -> None: ...
    def value(self, channels: int, height: int, width: int, zero: int) -> int: ...
    def input_quantised(self, y: int) -> None:
        """`run(..., quantised=True)` gives y: u8 [N, C, H, W], already quantised."""

    def input_pixels(self, y: int, table: _Array) -> None:
        """`run(..., quantised=False)` gives pixels u8 [N, C, H, W]: y = table[c, pixel]."""

    def adder2d(
        self,
        x: int,
        y: int,
        weight: _Array,
        stride: tuple[int, int],
        padding: tuple[int, int],
        groups: int,
        multiplier: _Array,
        offset: _Array,
        shift: int,
        low: int,
        high: int,
        residual: int = -1,
        residual_multiplier: int = 0,
    ) -> None: ...
    def conv2d(
        self,
        x: int,
        y: int,
        weight: _Array,
        stride: tuple[int, int],
        padding: tuple[int, int],
        groups: int,
        multiplier: _Array,
        offset: _Array,
        shift: int,
        low: int,
        high: int,
        residual: int = -1,
        residual_multiplier: int = 0,
    ) -> None: ...
    def max_pool(
        self,
        x: int,
        y: int,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int],
        minimum: _Array,
    ) -> None: ...
    def mean(
        self,
        x: int,
        y: int,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        multiplier: int,
        offset: int,
        shift: int,
        low: int,
        high: int,
    ) -> None: ...
    def add(
        self,
        a: int,
        b: int,
        y: int,
        multiplier_a: int,
        multiplier_b: int,
        offset: int,
        shift: int,
        low: int,
        high: int,
    ) -> None: ...
    def lut(self, x: int, y: int, table: _Array) -> None: ...
    def pad(self, x: int, y: int, left: int, right: int, top: int, bottom: int) -> None: ...
    def repeat(self, x: int, y: int, factor: int) -> None: ...
    def concat(self, xs: list[int], y: int, order: _Array) -> None: ...
    def linear(self, x: int, weight: _Array, scale: _Array, bias: _Array) -> None:
        """Ends the program: float32(sum x * w) * scale + bias."""

    def compile(self) -> None:
        """Plans the memory; nothing can be added afterwards."""

    def run(
        self, input: _Array, output: _Array, quantised: bool, threads: int, memory: int = ...
    ) -> None:
        """Output f32 [N, O] of input u8 [N, C, H, W]. Calls from several threads take turns.

        At most `memory` bytes are taken for the values of images. Signals of Python are handled
        during a long run on the main thread; where a handler raises, the run ends with that.
        """

    def profile(
        self, input: _Array, output: _Array, quantised: bool, threads: int, memory: int = ...
    ) -> list[float]:
        """As `run`; the seconds of the input step and then of each node, over all images."""

    def arena_bytes(self, batch: int) -> int:
        """Memory for the values of one image: on one thread of any batch, as they run in turn."""

    def describe(self) -> list[str]:
        """The kernel of the input step and then of each node."""
