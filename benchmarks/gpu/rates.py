"""Rates of the instructions that adder kernels are made of, in loops that touch registers only.

One loop serves all of them. Every lane holds two registers a and b that feed each other and one
constant w; a step computes `(a, b) <- step(a, b, w)` by PTX instructions that are given as text.
Because a and b are carried from step to step, nothing of a step can be moved out of the loop, and
because the values stay bounded or grow slowly, nothing of it becomes trivial. What the loop body
consists of in the end is checked by reading the machine code: see `tests/benchmarks/gpu`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from mulfree._triton import Launch
from mulfree.bench.device import clock_of, sm_clock_hz
from mulfree.bench.timing import Spread, interleave

BLOCK = 1024
WARPS = 4
UNROLL = 16

# Registers: a and b after the step are $0 and $1; before it $2 and $3; w is $4.
_CONSTRAINTS = tl.constexpr("=&r,=&r,r,r,r")

# 48 warps on every SM, all of them at once: up to 40 registers a lane allow it.
_BLOCKS_PER_SM = 12

# Some two milliseconds on a device of 2 GHz.
_ITERATIONS = 1000


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A step of the loop.

    Attributes:
        name: What is measured.
        ptx: The step.
        opcodes: Machine instructions of the step on sm_90, by the first part of their names.
        taps: Pairs of input and weight that the step stands for.
        capability: Least compute capability, times ten.
    """

    name: str
    ptx: str
    opcodes: tuple[str, ...]
    taps: int
    capability: int = 80


def _distance(kind: str, absolute: str) -> str:
    """`a <- w - a; b <- |a| + b`: one tap in every lane of a register."""
    return f"{{.reg .b32 d; sub.{kind} $0, $4, $2; {absolute}; add.{kind} $1, d, $3;}}"


def _clamped(kind: str) -> str:
    """`clamp(w - a, -1, 1) w` as the sum of two saturated halves, each into its register."""
    return (
        f"{{.reg .b32 d, e; sub.sat.{kind} d, $4, $2; sub.sat.{kind} e, $2, $4; "
        f"fma.rn.{kind} $1, d, $4, $3; neg.{kind} e, e; fma.rn.{kind} $0, e, $4, $2;}}"
    )


# The compiler makes no operand modifier of an absolute value in bfloat16. As a mask it is at least
# an instruction for the other pipe.
_BF16_ABS = "and.b32 d, $0, 0x7fff7fff"
_ONE, _MINUS_ONE = "0f3F800000", "0fBF800000"

RATES = (
    Rate(
        name="forward fp32: |x - w|, add",
        ptx=_distance("f32", "abs.f32 d, $0"),
        opcodes=("FADD", "FADD"),
        taps=1,
    ),
    Rate(
        name="forward fp16x2: |x - w|, add",
        ptx=_distance("f16x2", "abs.f16x2 d, $0"),
        opcodes=("HFMA2", "HADD2"),
        taps=2,
    ),
    Rate(
        name="forward bf16x2: |x - w|, add",
        ptx=_distance("bf16x2", _BF16_ABS),
        opcodes=("HFMA2", "LOP3", "HADD2"),
        taps=2,
        capability=90,
    ),
    Rate(
        name="forward bf16x2: max(x, w), add",
        ptx="max.bf16x2 $0, $3, $4; sub.bf16x2 $1, $0, $3;",
        opcodes=("HMNMX2", "HADD2"),
        taps=2,
        capability=90,
    ),
    Rate(
        name="forward fp32: max(x, w), add",
        ptx="max.f32 $0, $3, $4; sub.f32 $1, $0, $3;",
        opcodes=("FMNMX", "FADD"),
        taps=1,
    ),
    Rate(
        name="forward int8: vabsdiff4",
        ptx="vabsdiff4.u32.u32.u32.add $0, $3, $4, $2; vabsdiff4.u32.u32.u32.add $1, $0, $4, $3;",
        opcodes=("VABSDIFF4", "VABSDIFF4"),
        taps=8,
    ),
    Rate(
        name="input gradient fp32: two saturated differences, two fma",
        ptx=_clamped("f32"),
        opcodes=("FADD", "FADD", "FFMA", "FFMA"),
        taps=1,
    ),
    Rate(
        name="input gradient fp32: min, max, fma",
        ptx=f"{{.reg .b32 c; sub.f32 $0, $4, $2; min.f32 c, $0, {_ONE}; "
        f"max.f32 c, c, {_MINUS_ONE}; fma.rn.f32 $1, c, $4, $3;}}",
        opcodes=("FADD", "FMNMX", "FMNMX", "FFMA"),
        taps=1,
    ),
    Rate(
        name="input gradient fp32: smaller magnitude with the sign, fma",
        ptx=f"{{.reg .b32 c; sub.f32 $0, $4, $2; min.NaN.xorsign.abs.f32 c, $0, {_ONE}; "
        "fma.rn.f32 $1, c, $4, $3;}",
        opcodes=("FADD", "FMNMX", "FFMA"),
        taps=1,
        capability=86,
    ),
    Rate(
        name="input gradient fp16x2: two saturated differences, two fma",
        ptx=_clamped("f16x2"),
        opcodes=("HADD2", "HFMA2", "HFMA2", "HFMA2"),
        taps=2,
    ),
    Rate(
        name="convolution fp32: fma",
        ptx="fma.rn.f32 $0, $2, $4, $3; fma.rn.f32 $1, $3, $4, $0;",
        opcodes=("FFMA", "FFMA"),
        taps=2,
    ),
    Rate(
        name="convolution int8: dp4a",
        ptx="dp4a.s32.s32 $0, $3, $4, $2; dp4a.s32.s32 $1, $0, $4, $3;",
        opcodes=("IDP", "IDP"),
        taps=8,
    ),
)


@triton.jit  # type: ignore[untyped-decorator]
def steps(  # type: ignore[no-untyped-def]
    out, seed, iterations, STEP: tl.constexpr, LANES: tl.constexpr, REPEAT: tl.constexpr
):
    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    a = lane * 7 + seed
    b = lane * 5 + seed
    w = lane * 3 + seed
    for _ in range(iterations):
        for _ in tl.static_range(REPEAT):
            a, b = tl.inline_asm_elementwise(
                STEP, _CONSTRAINTS, [a, b, w], (tl.int32, tl.int32), is_pure=True, pack=1
            )
    tl.store(out + lane, a + b)


def launch_of(
    rate: Rate, out: torch.Tensor, *, blocks: int = 1, iterations: int = _ITERATIONS
) -> Launch:
    """The launch that runs the loop of a rate.

    Args:
        rate: The step.
        out: Where the registers end up, `BLOCK` integers of 32 bits for every block.
        blocks: Blocks of the grid.
        iterations: Trips through the loop, of `UNROLL` steps each.
    """
    return Launch(
        kernel=steps,
        grid=(blocks, 1, 1),
        # Bits of fp32 values near 1; as pairs of half floats or as bytes they are harmless too.
        arguments={"out": out, "seed": 0x3F800000, "iterations": iterations},
        constants={"STEP": rate.ptx, "LANES": BLOCK, "REPEAT": UNROLL},
        warps=WARPS,
    )


def measure_rates(device: torch.device, *, rounds: int = 5) -> list[dict[str, Any]]:
    """Time every rate that the device has the instructions for.

    Returns:
        For each `taps_per_s`, and `instructions_per_clock`: lanes of an SM that finish an
        instruction in a cycle of the highest clock (128 where every issue slot is used), None
        where that clock is not known.
    """
    facts = torch.cuda.get_device_properties(device)
    capability = 10 * facts.major + facts.minor
    blocks = facts.multi_processor_count * _BLOCKS_PER_SM
    out = torch.zeros(blocks * BLOCK, dtype=torch.int32, device=device)
    offered = [rate for rate in RATES if capability >= rate.capability]
    samples = interleave(
        {rate.name: launch_of(rate, out, blocks=blocks) for rate in offered},
        rounds=rounds,
        clock=clock_of(device),
    )
    clock = sm_clock_hz(device)
    entries = []
    for rate in offered:
        seconds = Spread.of(samples[rate.name]).median
        steps_per_s = blocks * BLOCK * UNROLL * _ITERATIONS / seconds
        instructions_per_s = steps_per_s * len(rate.opcodes) / facts.multi_processor_count
        entries.append(
            {
                "name": rate.name,
                "instructions": list(rate.opcodes),
                "taps_per_s": steps_per_s * rate.taps,
                "instructions_per_clock": clock and instructions_per_s / clock,
            }
        )
    return entries
