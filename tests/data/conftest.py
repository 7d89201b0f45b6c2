from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, and no data set from outside."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("MULFREE_CACHE", str(folder))
    monkeypatch.delenv("MULFREE_DATA", raising=False)
    return folder
