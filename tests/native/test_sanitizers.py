"""The native code under AddressSanitizer and UBSan, as programs without Python."""

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
SOURCES = TESTS.parents[1] / "src/mulfree"
ADDER2D = SOURCES / "operators/adder2d/csrc"
NODES = SOURCES / "nodes/csrc"
WINDOW = NODES / "window"
SLIDING = SOURCES / "_native/sliding"
RUNTIME = SOURCES / "runtime/csrc"
ARCHITECTURES = {"x86_64": "x86", "amd64": "x86", "aarch64": "arm", "arm64": "arm"}
FLAGS = [
    "-std=c++17",
    "-O0",
    "-fopenmp",
    "-pthread",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    *(f"-I{folder}" for folder in (SOURCES, ADDER2D, WINDOW, RUNTIME)),
]


def kernels(folder: Path, prefix: str) -> list[tuple[Path, list[str]]]:
    """Source and compiler flags of each line of `kernels.inc` for this architecture."""
    here = ARCHITECTURES.get(platform.machine().lower())
    lines = re.findall(
        r'^MULFREE_KERNEL\((\w+), (\w+), "(.*)"\)$',
        (folder / "kernels.inc").read_text(),
        re.MULTILINE,
    )
    return [
        (folder / f"{prefix}_{isa}.cpp", flags.split())
        for isa, arch, flags in lines
        if arch in ("any", here)
    ]


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A compiler that has the sanitizers."""
    found = shutil.which("g++") or shutil.which("clang++")
    if found is None:
        pytest.skip("no C++ compiler on this machine")
    folder = tmp_path_factory.mktemp("probe")
    probe = folder / "probe.cpp"
    probe.write_text("int main() { return 0; }\n")
    built = subprocess.run(
        [found, *FLAGS, str(probe), "-o", str(folder / "probe")],
        capture_output=True,
        check=False,
    )
    if built.returncode != 0:
        pytest.skip(f"{found} has no OpenMP, AddressSanitizer or UBSan libraries")
    return found


def output(compiler: str, folder: Path, units: list[tuple[Path, list[str]]]) -> list[int]:
    """Compiles and links the units, runs the program and returns the numbers that it prints."""

    def compile_unit(number: int) -> Path:
        source, flags = units[number]
        target = folder / f"{number}.o"
        command = [compiler, *FLAGS, *flags, "-c", str(source), "-o", str(target)]
        subprocess.run(command, check=True)
        return target

    with ThreadPoolExecutor(2) as pool:
        objects = [str(target) for target in pool.map(compile_unit, range(len(units)))]
    program = folder / "program"
    subprocess.run([compiler, *FLAGS, *objects, "-o", str(program)], check=True)
    # Threads that wait must not spin: the machine may have fewer cores than the program threads.
    environment = os.environ | {"OMP_WAIT_POLICY": "passive"}
    done = subprocess.run(
        [str(program)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [int(number) for number in done.stdout.split()]


def test_every_kernel_stays_inside_its_tensors(compiler: str, tmp_path: Path) -> None:
    units = kernels(ADDER2D, "adder2d")
    units += [(source, []) for source in (ADDER2D / "dispatch.cpp", SLIDING / "forks.cpp")]
    units += [(TESTS / "sanitize_adder2d.cpp", [])]
    (runs,) = output(compiler, tmp_path, units)
    assert runs > 1000


def test_integer_kernels_and_programs_of_random_calls(compiler: str, tmp_path: Path) -> None:
    units = kernels(WINDOW, "window")
    sources = [WINDOW / "dispatch.cpp", WINDOW / "packed_layer.cpp", SLIDING / "forks.cpp"]
    sources += [NODES / "native_ops.cpp", RUNTIME / "program.cpp", RUNTIME / "team.cpp"]
    sources += [TESTS / "sanitize_integer.cpp"]
    values, refused = output(compiler, tmp_path, units + [(source, []) for source in sources])
    assert values > 100_000
    assert refused > 300
