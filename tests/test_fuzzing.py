from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.fuzzing import Watch


def test_a_process_and_changes_elsewhere_are_noticed(tmp_path: Path) -> None:
    here, elsewhere = tmp_path / "in", tmp_path / "outside"
    here.mkdir()
    watch = Watch(here)
    with watch:
        (here / "file").write_text("")
        (here / "file").read_text()
        (here / "file").unlink()
    for change in (elsewhere.touch, elsewhere.unlink, elsewhere.mkdir):
        with pytest.raises(AssertionError, match="outside"), watch:
            change()
    with pytest.raises(AssertionError, match=r"subprocess\.Popen"), watch:
        subprocess.run([sys.executable, "-c", ""], check=True)
    (tmp_path / "later").touch()
    with watch:
        assert os.listdir(here) == []
