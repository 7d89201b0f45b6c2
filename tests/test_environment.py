from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import torch

import mulfree
from mulfree import environment
from mulfree.errors import BackendUnavailableError


def test_everything_is_json() -> None:
    facts = json.loads(json.dumps(environment.environment()))
    assert facts["versions"]["mulfree"] == mulfree.__version__
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["threads"] == torch.get_num_threads()
    assert facts["cpu"]


def test_a_missing_package_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "PACKAGES", ("no-such-package",))
    assert environment.versions()["no-such-package"] is None


class Core:
    @staticmethod
    def supported_isas() -> list[str]:
        return ["avx2", "scalar"]


def test_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "core", lambda: Core)
    monkeypatch.delenv("MULFREE_ISA", raising=False)
    assert environment.native() == {
        "available": True,
        "isas": ["avx2", "scalar"],
        "isa": "avx2",
        "reason": None,
    }
    monkeypatch.setenv("MULFREE_ISA", "scalar")
    assert environment.native()["isa"] == "scalar"
    monkeypatch.setenv("MULFREE_ISA", "mmx")
    assert environment.native()["reason"] == "MULFREE_ISA=mmx does not run here"


def test_kernels_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise BackendUnavailableError("not built")

    monkeypatch.setattr(environment, "core", missing)
    assert environment.native() == {
        "available": False,
        "isas": [],
        "isa": None,
        "reason": "not built",
    }


def test_variables_are_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MULFREE_A", "before")
    monkeypatch.delenv("MULFREE_B", raising=False)
    with environment.variables({"MULFREE_A": "1", "MULFREE_B": "2"}):
        assert (os.environ["MULFREE_A"], os.environ["MULFREE_B"]) == ("1", "2")
    assert os.environ["MULFREE_A"] == "before"
    assert "MULFREE_B" not in os.environ


def test_commit_of_a_working_copy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def git(*words: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", "-C", str(tmp_path), *who, *words], check=True, capture_output=True)

    package = tmp_path / "__init__.py"
    package.write_text("")
    monkeypatch.setattr(mulfree, "__file__", str(package))
    git("init")
    # A folder of somebody's repository that does not track the package.
    assert environment.commit() is None
    git("add", ".")
    git("commit", "-m", "one")
    clean = environment.commit()
    assert clean is not None
    assert re.fullmatch("[0-9a-f]{40}", clean)
    package.write_text("changed")
    assert environment.commit() == f"{clean}+"
