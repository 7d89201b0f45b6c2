from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mulfree.bench import memory

SIZE = 64 * 2**20
# A process of its own: in one with a history the allocator holds free memory that it uses again.
PROGRAM = f"""
import json, torch
from mulfree.bench.memory import peak_memory
torch.ones(4).sum()
first = peak_memory(lambda: torch.ones(2 * {SIZE} // 4).sum())
second = peak_memory(lambda: torch.ones({SIZE} // 4).sum())
print(json.dumps([first, second]))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_memory_that_is_given_back_counts_and_an_earlier_peak_does_not_hide_it() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True)
    first, second = json.loads(done.stdout)
    for measured, size in ((first, 2 * SIZE), (second, SIZE)):
        assert measured["peak"] - measured["before"] == measured["added"]
        assert 0.9 * size < measured["added"] < 1.5 * size


def test_a_peak_below_the_start_adds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_reset", lambda: 4096)
    monkeypatch.setattr(memory, "_high_water_mark", lambda: 1024)
    assert memory.peak_memory(lambda: None) == {"before": 4096, "peak": 4096, "added": 0}


def test_without_the_files_of_linux(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "none")
    monkeypatch.setattr(memory, "_CLEAR", tmp_path / "none")
    measured = memory.peak_memory(lambda: None)
    assert measured["before"] > 2**20
    assert measured["added"] >= 0
