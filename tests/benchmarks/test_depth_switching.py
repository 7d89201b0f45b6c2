from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import depth_switching as benchmark


def test_times_and_memory_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", "ddnn_vgg_small", "--width", "0.0625", "--rounds", "1"]
    output = tmp_path / "r.json"
    more = ["--operator", "conv2d", "--output", str(output)]
    monkeypatch.setattr("sys.argv", ["depth_switching.py", *words, *more])
    # In this process: a fresh one has no other sessions, and takes seconds to start.
    monkeypatch.setattr(benchmark, "_memory", benchmark.added_memory)
    benchmark.main()
    found = json.loads(output.read_text())
    assert list(found["switched"]) == ["vgg_small_111", "vgg_small"]
    assert list(found["first_switch_seconds"]) == ["vgg_small"]
    for row in (*found["switched"].values(), found["alternated"]):
        assert row["ratio"] > 0
    assert set(found["memory_bytes"]) == {"all_depths", "one_session_each"}
    assert found["options"]["operator"] == "conv2d"
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert "with two switches" in lines[0]
