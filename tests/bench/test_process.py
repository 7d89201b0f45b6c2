from __future__ import annotations

from pathlib import Path

import pytest

from mulfree.bench.correctness import BenchmarkError
from mulfree.bench.process import memory_in_process


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path / "toy_program.py"


def test_settings_and_result_are_json(program: Path) -> None:
    program.write_text("import sys; print(sys.argv[1].replace('before', 'peak'))")
    assert memory_in_process("toy_program", {"before": 4}, "x") == {"peak": 4}


@pytest.mark.parametrize(
    ("code", "reason"), [("sys.exit('a\\nkilled')", "killed"), ("os._exit(9)", "status 9")]
)
def test_a_process_that_fails_is_one_line(code: str, reason: str, program: Path) -> None:
    program.write_text(f"import os, sys; {code}")
    line = f"bench: memory of torch fp32 was not measured: {reason}"
    with pytest.raises(BenchmarkError, match=f"^{line}$"):
        memory_in_process("toy_program", {}, "torch fp32")
