from __future__ import annotations

from pathlib import Path

import pytest

from mulfree.cli.output import check_writable


def test_nothing_is_written(tmp_path: Path) -> None:
    check_writable(tmp_path / "result.json")
    assert list(tmp_path.iterdir()) == []


def test_an_older_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text("old")
    check_writable(path)
    assert path.read_text() == "old"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"No such file or directory: '.*/none/result"):
        check_writable(tmp_path / "none" / "result.json")


def test_a_folder_in_the_place_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="Is a directory"):
        check_writable(tmp_path)
