from __future__ import annotations

import builtins
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.runtime.graphs import network

from mulfree import export, models, runtime
from mulfree.errors import BackendUnavailableError


def without(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a package were not installed."""
    original = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)


def test_an_artifact(tmp_path: Path) -> None:
    graph = network()
    export.save(graph, tmp_path / "model.artifact")
    assert runtime.load(tmp_path / "model.artifact").nodes[1].name == graph.nodes[1].name


def test_what_needs_no_torch_loads_none() -> None:
    program = "import sys, mulfree.export; print({'torch', 'onnx'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


def test_onnx_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without("onnx", monkeypatch)
    line = r"to_onnx: ONNX files need onnx: pip install mulfree\[onnx\]"
    with pytest.raises(BackendUnavailableError, match=line):
        export.to_onnx(network(), tmp_path / "model.onnx")


def test_onnxscript_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="needs mulfree[onnx]")
    without("onnxscript", monkeypatch)
    line = r"to_onnx: a network of torch needs onnxscript: pip install mulfree\[onnx\]"
    with pytest.raises(BackendUnavailableError, match=line):
        export.to_onnx(models.create_model("lenet5_bn"), tmp_path / "model.onnx")
