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
    f"-I{SOURCES}",
]


def units(*folders: Path) -> list[tuple[Path, list[str]]]:
    """Sources of the folders without the bindings, with the flags of their kernels.inc.

    Kernels for another architecture are left out.
    """
    here = ARCHITECTURES.get(platform.machine().lower())
    found = []
    for folder in folders:
        lines = folder / "kernels.inc"
        listed = re.findall(
            r'^MULFREE_KERNEL\((\w+), (\w+), "(.*)"\)$',
            lines.read_text() if lines.exists() else "",
            re.MULTILINE,
        )
        kernels = {
            isa: flags.split() if arch in ("any", here) else None for isa, arch, flags in listed
        }
        for source in sorted(folder.glob("*.cpp")):
            flags = kernels.get(source.stem.rpartition("_")[2], [])
            if source.name != "bindings.cpp" and flags is not None:
                found.append((source, flags))
    return found


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


def output(compiler: str, folder: Path, sources: list[tuple[Path, list[str]]]) -> list[int]:
    """Compiles and links the sources, runs the program and returns the numbers that it prints."""

    def compile_unit(number: int) -> Path:
        source, flags = sources[number]
        target = folder / f"{number}.o"
        command = [compiler, *FLAGS, *flags, "-c", str(source), "-o", str(target)]
        subprocess.run(command, check=True)
        return target

    with ThreadPoolExecutor(2) as pool:
        objects = [str(target) for target in pool.map(compile_unit, range(len(sources)))]
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
    sources = [*units(ADDER2D, SLIDING), (TESTS / "sanitize_adder2d.cpp", [])]
    (runs,) = output(compiler, tmp_path, sources)
    assert runs > 1000


def test_integer_kernels_and_programs_of_random_calls(compiler: str, tmp_path: Path) -> None:
    sources = units(WINDOW, NODES, RUNTIME, SLIDING)
    sources += [(TESTS / "sanitize_integer.cpp", [])]
    values, refused = output(compiler, tmp_path, sources)
    assert values > 100_000
    assert refused > 300
