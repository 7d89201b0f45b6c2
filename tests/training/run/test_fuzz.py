from __future__ import annotations

from pathlib import Path

import pytest
from tests.training.run import fuzz_checkpoints, fuzz_configs

pytestmark = pytest.mark.fuzz


def test_damaged_configurations_are_refused_or_plain_data(tmp_path: Path) -> None:
    outcomes = fuzz_configs.fuzz(600, 1, tmp_path)
    assert sum(outcomes.values()) == 600
    for kind in ("text", "values", "words", "table"):
        assert outcomes[f"{kind} refused"] > 30
        assert outcomes[f"{kind} taken"] > 0


def test_damaged_checkpoints_are_refused_or_gone_on_from(tmp_path: Path) -> None:
    outcomes = fuzz_checkpoints.fuzz(200, 1, tmp_path, resumed=0.5)
    assert outcomes["not read"] > 50
    assert outcomes["of another run"] > 10
    assert outcomes["taken"] > 5
    assert outcomes["resumed"] + outcomes["refused by the run"] > 0
