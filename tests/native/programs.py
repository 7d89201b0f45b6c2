"""C++ test programs under AddressSanitizer and UBSan, for this machine or another one in QEMU."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SOURCES = TESTS.parents[1] / "src/mulfree"
ADDER2D = SOURCES / "operators/adder2d/csrc"
SLIDING = SOURCES / "_native/sliding"
ARCHITECTURES = {"x86_64": "x86", "amd64": "x86", "aarch64": "arm", "arm64": "arm"}
FLAGS = [
    "-std=c++17",
    "-O0",
    "-ffp-contract=off",
    "-fopenmp",
    "-pthread",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    f"-I{SOURCES}",
]


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine to build for.

    Attributes:
        architecture: Its name in `kernels.inc`.
        compilers: C++ compilers, the first one found is used.
        runner: Command before the program; empty on this machine.
        packages: Debian packages of both.
    """

    architecture: str | None
    compilers: tuple[str, ...]
    runner: tuple[str, ...] = ()
    packages: str

    def compiler(self, folder: Path) -> str:
        """Return a compiler with the sanitizers; skip the test without one."""
        found = next(filter(None, map(shutil.which, self.compilers)), None)
        if found is None or (self.runner and shutil.which(self.runner[0]) is None):
            pytest.skip(f"needs apt-get install {self.packages}")
        probe = folder / "probe.cpp"
        probe.write_text("int main() { return 0; }\n")
        command = [found, *FLAGS, str(probe), "-o", str(folder / "probe")]
        if subprocess.run(command, capture_output=True, check=False).returncode != 0:
            pytest.skip(f"{found} has no OpenMP, AddressSanitizer or UBSan libraries")
        return found

    def build(self, folder: Path, main: str, sources: list[Path]) -> Path:
        """Compile and link `main`, one of the programs here, with `sources` of the library."""
        compiler = self.compiler(folder)
        flags = self.kernel_flags()
        units = [TESTS / main, *(source for source in sources if flags.get(source) is not None)]
        units += [source for source in sources if source not in flags]

        def compile_unit(number: int) -> str:
            source, target = units[number], str(folder / f"{number}.o")
            own = flags.get(source) or []
            subprocess.run([compiler, *FLAGS, *own, "-c", str(source), "-o", target], check=True)
            return target

        with ThreadPoolExecutor(2) as pool:
            objects = list(pool.map(compile_unit, range(len(units))))
        program = folder / "program"
        subprocess.run([compiler, *FLAGS, *objects, "-o", str(program)], check=True)
        return program

    def kernel_flags(self) -> dict[Path, list[str] | None]:
        """Flags of every source in a `kernels.inc`; None if it is for another architecture."""
        line = re.compile(r'^MULFREE_KERNEL\((\w+), (\w+), "(.*)"\)$', re.MULTILINE)
        return {
            source: flags.split() if architecture in ("any", self.architecture) else None
            for table in SOURCES.rglob("kernels.inc")
            for isa, architecture, flags in line.findall(table.read_text())
            for source in table.parent.glob(f"*_{isa}.cpp")
        }

    def run(self, program: Path, *arguments: str) -> list[str]:
        """Run a program; return the words that it prints."""
        # Waiting threads must not spin on a machine of fewer cores; QEMU has no ptrace for leaks.
        options = {"OMP_WAIT_POLICY": "passive"}
        if self.runner:
            options["ASAN_OPTIONS"] = "detect_leaks=0"
        done = subprocess.run(
            [*self.runner, str(program), *arguments],
            env=os.environ | options,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout.split()


HERE = Machine(
    architecture=ARCHITECTURES.get(platform.machine().lower()),
    compilers=("g++", "clang++"),
    packages="g++",
)
ARM = Machine(
    architecture="arm",
    compilers=("aarch64-linux-gnu-g++",),
    runner=("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"),
    packages="g++-aarch64-linux-gnu qemu-user",
)


def float_sources() -> list[Path]:
    """Sources of the float kernels of adder2d."""
    return [path for path in _sources() if path.parent in (ADDER2D, SLIDING)]


def integer_sources() -> list[Path]:
    """Sources of the integer kernels and programs."""
    return [path for path in _sources() if path.parent != ADDER2D]


def _sources() -> list[Path]:
    bindings = ("core.cpp", "bindings.cpp")
    return [path for path in sorted(SOURCES.rglob("*.cpp")) if path.name not in bindings]
