from __future__ import annotations

import pytest

from benchmarks.gpu import sass

LISTING = """
	code for sm_90a
		Function : toy
	.headerflags	@"EF_CUDA_SM90"
        /*0000*/                   LDC R1, c[0x0][0x28] ;                 /* 0x00000a00ff017b82 */
                                                                          /* 0x000fe20000000800 */
        /*0010*/              @!P0 BRA 0xc0 ;                             /* 0x0000000400308947 */
        /*0020*/                   MOV R2, RZ ;                           /* 0x0 */
        /*0030*/                   LDS.128 R4, [R2+0x10] ;                /* 0x0 */
        /*0040*/                   FADD R16, R17, -R4 ;                   /* 0x0 */
        /*0050*/                   FADD R23, |R16|, R23 ;                 /* 0x0 */
        /*0060*/                   HADD2.F32 R9, -RZ, R4.H0_H0 ;          /* 0x0 */
        /*0070*/               @P1 BRA 0x30 ;                             /* 0x0 */
        /*0080*/                   FFMA R1, R2, R3, R1 ;                  /* 0x0 */
        /*0090*/              @!P2 BRA 0x80 ;                             /* 0x0 */
        /*00a0*/                   STL [R1+0x4], R23 ;                    /* 0x0 */
        /*00b0*/              @UP0 BRA 0x20 ;                             /* 0x0 */
        /*00c0*/                   EXIT ;                                 /* 0x0 */
        /*00d0*/                   BRA 0xd0;                              /* 0x0 */
        /*00e0*/                   NOP;                                   /* 0x0 */
"""
CODE = sass.parse(LISTING)


def test_instructions_and_the_mix_of_the_hottest_loop() -> None:
    assert len(CODE) == 14
    assert CODE[4] == sass.Instruction(address=0x40, opcode="FADD", operands="R16, R17, -R4")
    assert (CODE[3].name, CODE[3].opcode) == ("LDS", "LDS.128")
    assert sass.spills(CODE) == 1
    spans = [(loop[0].address, loop[-1].address) for loop in sass.innermost_loops(CODE)]
    # Not the one around both, nor the trap at the end that jumps to itself.
    assert spans == [(0x30, 0x70), (0x80, 0x90)]
    assert sass.hottest_loop(CODE)[0].address == 0x30
    straight = CODE[:3]
    assert sass.hottest_loop(straight) == straight
    loop = sass.hottest_loop(CODE)
    assert sass.statistics(loop, sass.forward_taps(loop)) == {
        "instructions": 5,
        "arithmetic": 2,
        "other_share": 0.6,
        "taps": 1,
        "arithmetic_per_tap": 2.0,
        "instructions_per_tap": 5.0,
        "mix": {"FADD": 2, "LDS.128": 1, "HADD2.F32": 1, "BRA": 1},
    }
    assert sass.statistics([])["arithmetic_per_tap"] is None


@pytest.mark.parametrize(
    ("lines", "forward", "input_grad"),
    [
        (["FADD R0, R1, -R2", "FADD R3, |R0|, R3"], 1, None),
        (["FADD R0, R1, -R2", "FADD R3, R3, -|R0|"], 1, None),
        (["HFMA2.MMA R0, R1, 1, 1, -R2", "HADD2 R3, |R0|, R3"], 2, None),
        (["HADD2.F32 R3, -RZ, |R0|.H0_H0", "LOP3.LUT R0, |R1|, R2"], 0, None),
        (["FADD R0, R1, -R2", "FMNMX R0, R0, 1, PT", "FFMA R3, R0, R4, R3"], 0, 1),
        (["FADD.SAT R0, R1, -R2", "FADD.SAT R5, R2, -R1", "FFMA R3, R0, R4, R3"], 0, 1),
        (["HADD2.SAT R0, R1, -R2", "HFMA2.MMA.SAT R5, R2, 1, 1, -R1", "HADD2.F32 R3, -RZ"], 0, 2),
    ],
)
def test_taps_are_absolute_values_or_differences(
    lines: list[str], forward: int, input_grad: int | None
) -> None:
    text = "\n".join(f"/*{16 * index:04x}*/ {line} ;" for index, line in enumerate(lines))
    code = sass.parse(text)
    assert sass.forward_taps(code) == forward
    assert input_grad is None or sass.input_grad_taps(code) == input_grad


def test_resources() -> None:
    text = """
Resource usage:
 Common:
  GLOBAL:0
 Function toy:
  REG:29 STACK:16 SHARED:1024 LOCAL:8 CONSTANT[0]:560 TEXTURE:0 SURFACE:0 SAMPLER:0
"""
    assert sass.parse_resources(text, shared_bytes=4096, warps=4) == sass.Resources(
        registers=29, spill_bytes=24, shared_bytes=4096, warps=4
    )


@pytest.mark.parametrize(
    ("registers", "shared", "warps", "capability", "occupancy"),
    [
        (32, 0, 4, 90, 1.0),  # 16 blocks
        (33, 0, 4, 90, 0.75),  # 40 registers a thread: 51 warps, 12 blocks
        (255, 0, 8, 90, 0.125),  # 8 warps, one block
        (32, 0, 1, 90, 0.5),  # 32 blocks
        (32, 100 * 1024, 4, 90, 0.125),  # two blocks' shared memory
        (32, 100 * 1024, 4, 80, 0.0625),  # one block's
    ],
)
def test_occupancy(
    registers: int, shared: int, warps: int, capability: int, occupancy: float
) -> None:
    resources = sass.Resources(registers=registers, spill_bytes=0, shared_bytes=shared, warps=warps)
    assert sass.occupancy(resources, capability) == occupancy
