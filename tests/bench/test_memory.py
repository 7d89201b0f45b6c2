from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mulfree.bench import memory

SIZE = 64 * 2**20


def test_memory_that_is_given_back_counts() -> None:
    measured = memory.peak_memory(lambda: torch.ones(SIZE // 4).sum())
    assert measured["peak"] - measured["before"] == measured["added"]
    assert 0.9 * SIZE < measured["added"] < 1.5 * SIZE


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_an_earlier_peak_does_not_hide_a_lower_one() -> None:
    torch.ones(2 * SIZE // 4).sum()
    measured = memory.peak_memory(lambda: torch.ones(SIZE // 4).sum())
    assert 0.9 * SIZE < measured["added"] < 1.5 * SIZE


def test_without_the_files_of_linux(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "none")
    monkeypatch.setattr(memory, "_CLEAR", tmp_path / "none")
    measured = memory.peak_memory(lambda: None)
    assert measured["before"] > 2**20
    assert measured["added"] >= 0


def test_memory_of_a_device_is_that_of_the_second_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    allocated = {"now": 100, "peak": 0}

    def make() -> Callable[[], object]:
        calls.append("make")
        return run

    def run() -> None:
        # The first call tries algorithms with large workspaces.
        allocated["peak"] = 130 if "run" in calls else 500
        calls.append("run")

    def reset(device: torch.device) -> None:
        calls.append("reset")

    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: allocated["now"])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: allocated["peak"])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    measured = memory.peak_device_memory(make, torch.device("cuda"))
    assert measured == {"before": 100, "peak": 130, "added": 30}
    assert calls == ["make", "run", "reset", "run"]
