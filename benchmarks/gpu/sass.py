"""Statistics of GPU machine code as text: what a kernel's hottest loop consists of.

The text is that of `cuobjdump -sass` for compute capability 8.0 and 9.0: one instruction a line,
`/*0350*/  @!P0 FADD R23, |R16|, R23 ;`, with addresses as the targets of branches.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_LINE = re.compile(
    r"/\*(?P<address>[0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?(?P<opcode>[A-Z][A-Z0-9_.]*)"
    r"(?P<operands>[^;]*);"
)
_TARGET = re.compile(r"0x([0-9a-f]+)\s*$")
_ABSOLUTE = re.compile(r"\|U?R\w+|\|c\[")
_RESOURCE = re.compile(r"\b(REG|STACK|SHARED|LOCAL):(\d+)")

# Instructions that compute with the values of the layer, by the first part of their names. Those of
# half floats with a float32 result convert.
ARITHMETIC = frozenset(
    ("FADD", "FFMA", "FMUL", "FMNMX", "HADD2", "HFMA2", "HMUL2", "HMNMX2", "VABSDIFF4", "IDP")
)
_PAIRS = frozenset(("HADD2", "HFMA2", "HMUL2", "HMNMX2"))
_SUMS = frozenset(("FADD", "HADD2"))
_BRANCHES = frozenset(("BRA", "JMP"))
_SPILLS = frozenset(("LDL", "STL"))


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One machine instruction.

    Attributes:
        address: Where it is.
        opcode: Full name with modifiers, such as HADD2.BF16_V2.
        operands: The rest of it.
    """

    address: int
    opcode: str
    operands: str

    @property
    def name(self) -> str:
        """The first part of the opcode."""
        return self.opcode.partition(".")[0]

    @property
    def target(self) -> int | None:
        """Where a branch goes to; None for every other instruction."""
        found = _TARGET.search(self.operands) if self.name in _BRANCHES else None
        return None if found is None else int(found[1], 16)

    @property
    def arithmetic(self) -> bool:
        """Whether it computes with the values of the layer."""
        return self.name in ARITHMETIC and not self.opcode.endswith(".F32")

    @property
    def absolute(self) -> bool:
        """Whether it takes the absolute value of an operand."""
        return self.arithmetic and bool(_ABSOLUTE.search(self.operands))

    @property
    def lanes(self) -> int:
        """Numbers in a register, where it computes with them."""
        return 2 if self.name in _PAIRS else 1


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a kernel needs of a multiprocessor.

    Attributes:
        registers: Of a thread.
        spill_bytes: Of a thread, in local memory; kernels without arrays of their own have
            nothing else there.
        shared_bytes: Of a block.
        warps: Of a block.
    """

    registers: int
    spill_bytes: int
    shared_bytes: int
    warps: int


# Shared memory of a multiprocessor; registers, warps and blocks are the same for both.
_SHARED = {80: 164 * 1024, 90: 228 * 1024}
_REGISTERS, _WARPS, _BLOCKS = 65536, 64, 32
_RESERVED_SHARED = 1024
_REGISTER_UNIT = 256


def parse(text: str) -> list[Instruction]:
    """The instructions of a listing, without the padding behind the last of them."""
    found = [
        Instruction(
            address=int(match["address"], 16),
            opcode=match["opcode"],
            operands=match["operands"].strip(),
        )
        for match in _LINE.finditer(text)
    ]
    return [instruction for instruction in found if instruction.name != "NOP"]


def parse_resources(text: str, *, shared_bytes: int, warps: int) -> Resources:
    """What `cuobjdump --dump-resource-usage` says, and what the launch adds to it.

    Args:
        text: Its output for one kernel.
        shared_bytes: Shared memory that is given at the launch.
        warps: Warps of a block.
    """
    told = {key: int(value) for key, value in _RESOURCE.findall(text)}
    return Resources(
        registers=told["REG"],
        spill_bytes=told["STACK"] + told["LOCAL"],
        shared_bytes=shared_bytes,
        warps=warps,
    )


def innermost_loops(code: Sequence[Instruction]) -> list[list[Instruction]]:
    """The loops that hold no other loop, each from the target of its backward branch to that."""
    spans = [
        (instruction.target, instruction.address)
        for instruction in code
        if instruction.target is not None and instruction.target < instruction.address
    ]
    inner = [
        (start, end)
        for start, end in spans
        if not any(
            start <= other_start and other_end <= end and (start, end) != (other_start, other_end)
            for other_start, other_end in spans
        )
    ]
    return [
        [instruction for instruction in code if start <= instruction.address <= end]
        for start, end in inner
    ]


def hottest_loop(code: Sequence[Instruction]) -> list[Instruction]:
    """The innermost loop with the most arithmetic, or all of a kernel without loops."""
    loops = innermost_loops(code)
    return max(loops, key=_arithmetic, default=list(code))


def forward_taps(code: Sequence[Instruction]) -> float:
    """Taps of the adder operator: what is added up is an absolute value, and nothing else is."""
    return sum(instruction.lanes for instruction in code if instruction.absolute)


def input_grad_taps(code: Sequence[Instruction]) -> float:
    """Taps of the input gradient: a difference each, or two saturated halves of one."""
    halves = sum(instruction.lanes for instruction in code if ".SAT" in instruction.opcode)
    if halves:
        return halves / 2
    return sum(
        instruction.lanes
        for instruction in code
        if instruction.arithmetic and instruction.name in _SUMS
    )


def statistics(code: Sequence[Instruction], taps: float | None = None) -> dict[str, Any]:
    """Instruction mix of a piece of code, as JSON values.

    Args:
        code: Its instructions.
        taps: How many taps they compute, where that is known.
    """
    total = len(code)
    arithmetic = _arithmetic(code)
    return {
        "instructions": total,
        "arithmetic": arithmetic,
        "other_share": (total - arithmetic) / total if total else 0.0,
        "taps": taps or None,
        "arithmetic_per_tap": arithmetic / taps if taps else None,
        "instructions_per_tap": total / taps if taps else None,
        "mix": dict(Counter(instruction.opcode for instruction in code).most_common()),
    }


def spills(code: Sequence[Instruction]) -> int:
    """Loads and stores of local memory."""
    return sum(instruction.name in _SPILLS for instruction in code)


def occupancy(resources: Resources, capability: int) -> float:
    """Share of a multiprocessor's warps that blocks of a kernel can fill.

    Args:
        resources: What a block needs.
        capability: Compute capability times ten: 80 or 90.
    """
    per_warp = -(-resources.registers * 32 // _REGISTER_UNIT) * _REGISTER_UNIT
    shared = resources.shared_bytes + _RESERVED_SHARED
    blocks = min(
        _BLOCKS,
        _WARPS // resources.warps,
        _REGISTERS // per_warp // resources.warps,
        _SHARED[capability] // shared,
    )
    return blocks * resources.warps / _WARPS


def _arithmetic(code: Sequence[Instruction]) -> int:
    return sum(instruction.arithmetic for instruction in code)
