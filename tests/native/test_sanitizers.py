"""The native code under AddressSanitizer and UBSan, as programs without Python.

The integer program runs every instruction set of a machine; all must give the same bits.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.native.programs import ARM, HERE, float_sources, integer_sources

pytestmark = pytest.mark.sanitizers


@pytest.fixture(scope="module")
def integers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return HERE.build(
        tmp_path_factory.mktemp("integers"), "sanitize_integer.cpp", integer_sources()
    )


def test_every_kernel_stays_inside_its_tensors(tmp_path: Path) -> None:
    (runs,) = HERE.run(HERE.build(tmp_path, "sanitize_adder2d.cpp", float_sources()))
    assert int(runs) > 1000


def test_integer_kernels_and_programs_of_random_calls(integers: Path) -> None:
    values, refused, *_ = HERE.run(integers)
    assert int(values) > 100_000
    assert int(refused) > 300


@pytest.mark.cross
def test_neon_gives_the_bits_of_this_machine(integers: Path, tmp_path: Path) -> None:
    program = ARM.build(tmp_path, "sanitize_integer.cpp", integer_sources())
    values, refused, digest, *isas = ARM.run(program, "60")
    assert isas == ["neon", "scalar"]
    assert int(values) > 50_000
    assert int(refused) > 300
    assert HERE.run(integers, "60")[2] == digest
