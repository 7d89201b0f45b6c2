"""The adder2d kernels under AddressSanitizer and UBSan, as a program without Python."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SOURCES = TESTS.parents[1] / "src/mulfree/operators/adder2d/csrc"
FLAGS = [
    "-std=c++17",
    "-O0",
    "-fopenmp",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    f"-I{SOURCES}",
]


def kernels() -> list[tuple[str, list[str]]]:
    """Instruction set and compiler flags of each line of `kernels.inc` for this architecture."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    lines = re.findall(
        r'^MULFREE_KERNEL\((\w+), (\w+), "(.*)"\)$',
        (SOURCES / "kernels.inc").read_text(),
        re.MULTILINE,
    )
    return [(isa, flags.split()) for isa, arch, flags in lines if arch == "any" or x86]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler on this machine")
    folder = tmp_path_factory.mktemp("sanitizers")
    probe = folder / "probe.cpp"
    probe.write_text("int main() { return 0; }\n")
    built = subprocess.run(
        [compiler, *FLAGS, str(probe), "-o", str(folder / "probe")],
        capture_output=True,
        check=False,
    )
    if built.returncode != 0:
        pytest.skip(f"{compiler} has no OpenMP, AddressSanitizer or UBSan libraries")
    units = [(SOURCES / f"adder2d_{isa}.cpp", flags) for isa, flags in kernels()]
    units += [(SOURCES / "dispatch.cpp", []), (TESTS / "sanitize_adder2d.cpp", [])]

    def compile_unit(unit: tuple[Path, list[str]]) -> Path:
        source, flags = unit
        target = folder / f"{source.stem}.o"
        command = [compiler, *FLAGS, *flags, "-c", str(source), "-o", str(target)]
        subprocess.run(command, check=True)
        return target

    with ThreadPoolExecutor(2) as pool:
        objects = [str(target) for target in pool.map(compile_unit, units)]
    target = folder / "sanitize_adder2d"
    subprocess.run([compiler, *FLAGS, *objects, "-o", str(target)], check=True)
    return target


def test_every_kernel_stays_inside_its_tensors(program: Path) -> None:
    # Threads that wait must not spin: the machine may have fewer cores than the program threads.
    environment = os.environ | {"OMP_WAIT_POLICY": "passive"}
    done = subprocess.run(
        [str(program)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert int(done.stdout) > 1000
