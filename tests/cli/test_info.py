from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.cli.command import refused, shown

import mulfree
from mulfree import data, models, operators
from mulfree.cli import info
from mulfree.training.methods import METHODS


def test_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cifar10").mkdir()
    monkeypatch.setenv("MULFREE_DATA", str(tmp_path))
    facts = json.loads(shown(capsys, "info", "--format", "json"))
    assert facts["versions"]["mulfree"] == mulfree.__version__
    assert facts["threads"] == torch.get_num_threads()
    assert facts["data"] == {
        "sets": list(data.SETS),
        "MULFREE_DATA": str(tmp_path),
        "found there": ["cifar10"],
    }
    assert facts["operators"] == list(operators.OPERATORS)
    assert facts["methods"] == list(METHODS)
    assert facts["models"] == models.list_models()
    assert (facts["gpu"] is not None) is torch.cuda.is_available()


@pytest.mark.parametrize("root", [None, "/no/where"])
def test_without_a_data_folder(root: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MULFREE_DATA", raising=False)
    if root is not None:
        monkeypatch.setenv("MULFREE_DATA", root)
    found = info.gather()["data"]
    assert (found["MULFREE_DATA"], found["found there"]) == (root, None)


FACTS = {
    "versions": {"python": "3.11.7", "triton": None},
    "cores": 2,
    "load_average": [0.5, 0.25, 1.0],
    "native": {"available": True, "isas": ["avx2", "scalar"], "reason": None},
    "gpu": None,
}

TEXT = """\
versions:
  python  3.11.7
  triton  -
cores: 2
load_average: 0.50, 0.25, 1.00
native:
  available  yes
  isas       avx2, scalar
  reason     -
gpu: -
"""


def test_text(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(info, "gather", lambda: FACTS)
    assert shown(capsys, "info") == TEXT


def test_a_mistake_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    line = "unknown option --formt; did you mean --format?\n"
    assert refused(capsys, "info", "--formt", "json") == line
