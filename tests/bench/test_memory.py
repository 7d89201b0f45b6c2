from __future__ import annotations

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
