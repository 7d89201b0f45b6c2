from __future__ import annotations

from pathlib import Path

from tests.data.fuzz_archives import WATCH, fuzz


def test_damaged_data_sets_are_refused_or_loaded(tmp_path: Path) -> None:
    outcomes = fuzz(150, 1, tmp_path)
    assert outcomes.total() == 150
    for name in ("image_folder", "cifar1", "fashion_mnist"):
        assert outcomes[f"{name} refused"] > 3
        assert outcomes[f"{name} loaded"] > 3


def test_what_is_written_elsewhere_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    with WATCH.on(tmp_path / "here"):
        (tmp_path / "here" / "inside").write_text("")
        assert WATCH.found == []
        (tmp_path / "outside").write_text("")
    assert len(WATCH.found) == 1
    assert "outside" in WATCH.found.pop()
    (tmp_path / "later").write_text("")
    assert WATCH.found == []
