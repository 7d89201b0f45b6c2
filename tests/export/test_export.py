from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.runtime.graphs import network

from mulfree import export, models, runtime
from mulfree.errors import BackendUnavailableError


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


@pytest.mark.parametrize(
    ("package", "message"),
    [
        ("onnx", "ONNX files need onnx"),
        ("onnxscript", "a network of torch needs onnxscript"),
    ],
)
def test_a_package_is_missing(
    package: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("onnx", reason="needs mulfree[onnx]")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        BackendUnavailableError, match=rf"^to_onnx: {message}: pip install mulfree\[onnx\]$"
    ):
        export.to_onnx(models.create_model("lenet5_bn"), tmp_path / "model.onnx")
