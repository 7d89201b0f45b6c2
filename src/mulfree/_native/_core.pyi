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
