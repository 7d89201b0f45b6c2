from __future__ import annotations

import pytest

from mulfree.bench.correctness import BenchmarkError
from mulfree.bench.process import memory_in_process

PROGRAM = "import json, sys; print(json.dumps({'peak': json.loads(sys.argv[1])['number'] + 1}))"


def test_settings_and_result_are_json() -> None:
    assert memory_in_process(["-c", PROGRAM], {"number": 3}, "x") == {"peak": 4}


@pytest.mark.parametrize(
    ("program", "reason"),
    [("sys.exit('a\\nkilled')", "killed"), ("os._exit(9)", "status 9")],
)
def test_a_process_that_fails_is_one_line(program: str, reason: str) -> None:
    line = f"bench: memory of torch fp32 was not measured: {reason}"
    with pytest.raises(BenchmarkError, match=f"^{line}$"):
        memory_in_process(["-c", f"import os, sys; {program}"], {}, "torch fp32")
