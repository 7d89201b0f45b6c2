from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "gpu.sh"

# Stands in for a Python without xdist; checks, tests and measurements have an exit status each.
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


@pytest.mark.parametrize(
    ("words", "statuses", "status", "line", "calls"),
    [
        ("--output new --seconds 200", (0, 0, 0), 0, "", 3),
        ("", (1, 0, 0), 2, "", 1),
        ("", (0, 1, 0), 1, "gpu.sh: the tests failed (status 1); nothing is measured\n", 2),
        ("", (0, 124, 0), 1, "gpu.sh: the tests took more than 180 s; nothing is measured\n", 2),
        ("", (0, 0, 1), 1, "", 3),
        ("", (0, 0, 124), 0, "gpu.sh: cut off at the time limit; what was measured is wr", 3),
        ("--seconds 30", (0, 0, 0), 1, "gpu.sh: the tests left no time of the 30 s; nothing i", 2),
        ("--ouput x", (), 2, "gpu.sh: unknown option --ouput; there are --output DIR and --sec", 0),
        ("--output", (), 2, "gpu.sh: --output must be followed by a value\n", 0),
        ("--seconds soon", (), 2, "gpu.sh: --seconds must be a whole number, got soon\n", 0),
    ],
)
def test_checks_then_tests_then_measures(
    words: str, statuses: tuple[int, ...], status: int, line: str, calls: int, tmp_path: Path
) -> None:
    program = tmp_path / "python3"
    program.write_text(PYTHON)
    program.chmod(0o755)
    log = tmp_path / "log"
    log.touch()
    given = dict(zip(("CHECK", "TESTS", "MEASURED"), map(str, statuses), strict=False))
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", str(SCRIPT), *words.split()],
        env={**os.environ, **given, "PATH": path, "LOG": str(log)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == status
    assert done.stderr.startswith(line)
    assert done.stderr.count("\n") == (1 if line else 0)
    asked = log.read_text().splitlines()
    assert len(asked) == calls
    if status == 0 and not line:
        assert asked[1].startswith("-m pytest -m gpu -q -x ")
        assert "tests/bench/test_correctness.py" in asked[1]
        assert "tests/benchmarks/gpu/test_schedule.py" not in asked[1]
        assert asked[2].startswith("-m benchmarks.gpu --seconds 1")
        assert asked[2].endswith(f" --output {tmp_path / 'new'}")
