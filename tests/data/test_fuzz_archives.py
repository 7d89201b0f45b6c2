from __future__ import annotations

from pathlib import Path

import pytest
from tests.data.fuzz_archives import fuzz

pytestmark = pytest.mark.fuzz


def test_damaged_data_sets_are_refused_or_loaded(tmp_path: Path) -> None:
    outcomes = fuzz(150, 1, tmp_path)
    assert outcomes.total() == 150
    for name in ("image_folder", "cifar1", "fashion_mnist"):
        assert outcomes[f"{name} refused"] > 3
        assert outcomes[f"{name} loaded"] > 3
