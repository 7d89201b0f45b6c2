from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "gpu.sh"

# Stands in for a Python without xdist: its calls are told apart by their arguments.
PYTHON = """\
#!/bin/sh
case "$*" in "-c import xdist") exit 1 ;; esac
echo "$@" >>"$LOG"
case "$*" in
  -) exit "$CHECK" ;;
  *pytest*) exit "$TESTS" ;;
  *) exit "$MEASURED" ;;
esac
"""


def run(folder: Path, *words: str, **statuses: int) -> tuple[int, str, list[str]]:
    """Exit status, errors, and what Python was asked for."""
    program = folder / "python3"
    program.write_text(PYTHON)
    program.chmod(0o755)
    log = folder / "log"
    log.touch()
    given = {"CHECK": 0, "TESTS": 0, "MEASURED": 0} | statuses
    variables = {
        **os.environ,
        **{name: str(status) for name, status in given.items()},
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "LOG": str(log),
    }
    done = subprocess.run(
        ["bash", str(SCRIPT), *words],
        env=variables,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stderr, log.read_text().splitlines()


def test_checks_then_tests_then_measures(tmp_path: Path) -> None:
    status, _, asked = run(tmp_path, "--output", "new", "--seconds", "200")
    assert status == 0
    assert asked[0] == "-"
    assert asked[1].startswith("-m pytest -m gpu -q -x ")
    assert "tests/bench/test_correctness.py" in asked[1]
    assert "tests/benchmarks/gpu/test_plan.py" not in asked[1]
    assert asked[2] in {
        f"-m benchmarks.gpu --seconds {seconds} --output {tmp_path / 'new'}"
        for seconds in range(160, 171)
    }


@pytest.mark.parametrize(
    ("statuses", "status", "line", "calls"),
    [
        ({"CHECK": 1}, 2, "", 1),
        ({"TESTS": 1}, 1, "gpu.sh: the tests failed (status 1); nothing is measured\n", 2),
        ({"TESTS": 5}, 1, "gpu.sh: the tests failed (status 5); nothing is measured\n", 2),
        ({"TESTS": 124}, 1, "gpu.sh: the tests took more than 180 s; nothing is measured\n", 2),
        ({"MEASURED": 1}, 1, "", 3),
        ({"MEASURED": 124}, 0, "gpu.sh: cut off at the time limit; what was measured is wr", 3),
    ],
)
def test_what_goes_wrong_is_one_line(
    statuses: dict[str, int], status: int, line: str, calls: int, tmp_path: Path
) -> None:
    got, errors, asked = run(tmp_path, **statuses)
    assert (got, len(asked)) == (status, calls)
    assert errors.startswith(line)
    assert errors.count("\n") == (1 if line else 0)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["--ouput", "x"],
            "gpu.sh: unknown option --ouput; there are --output DIR and --seconds N",
        ),
        (["--output"], "gpu.sh: --output must be followed by a value"),
        (["--seconds", "soon"], "gpu.sh: --seconds must be a whole number, got soon"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], line: str, tmp_path: Path) -> None:
    status, errors, asked = run(tmp_path, *words)
    assert (status, errors, asked) == (2, f"{line}\n", [])


def test_too_little_time_is_one_line(tmp_path: Path) -> None:
    status, errors, asked = run(tmp_path, "--seconds", "30")
    assert (status, len(asked)) == (1, 2)
    assert errors == "gpu.sh: the tests left no time of the 30 s; nothing is measured\n"
