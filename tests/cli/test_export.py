from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.export.graphs import network

from mulfree import models, runtime
from mulfree.cli.main import main

pytest.importorskip("onnx", reason="needs mulfree[onnx]")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs mulfree[onnx]")


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    runtime.save(network(np.random.default_rng(0)), tmp_path / "network.artifact")
    return tmp_path / "network.artifact"


@pytest.mark.parametrize("name", ["network.artifact", "network.safetensors"])
def test_an_artifact(
    name: str, artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = artifact.rename(tmp_path / name), tmp_path / "network.onnx"
    assert main(["export", str(source), "-o", str(output)]) == 0
    size = f"{output.stat().st_size / 1e6:.2f} MB"
    line = f"{output}: pixels uint8[batch, 3, 16, 16] -> logits float32[batch, 10], {size}\n"
    assert capsys.readouterr().out == line
    session = onnxruntime.InferenceSession(output, providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16), np.uint8)
    (logits,) = session.run(None, {"pixels": pixels})
    np.testing.assert_array_equal(logits, runtime.Session(source).run(pixels))


def test_an_artifact_that_reads_floats(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "network.onnx"
    assert main(["export", str(artifact), "-o", str(output), "--input", "images"]) == 0
    assert ": images float32[batch, 3, 16, 16] -> " in capsys.readouterr().out


@pytest.mark.parametrize("folder", [False, True])
def test_a_checkpoint(folder: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxscript", reason="needs mulfree[onnx]")
    model = models.create_model("lenet5_bn", num_classes=4, width=0.25)
    models.save_weights(model, tmp_path / "model.safetensors")
    source = tmp_path if folder else tmp_path / "model.safetensors"
    words = ["export", str(source), "-o", str(tmp_path / "model.onnx"), "--input-size", "3,32,32"]
    assert main(words) == 0
    assert ": images float32[batch, 3, 32, 32] -> logits float32[batch, 4]" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("words", "status", "line"),
    [
        (["{artifact}"], 2, "the following arguments are required: -o/--output"),
        (["{artifact}", "-o", "/no/x.onnx"], 1, "No such file or directory: /no/x.onnx"),
        (["missing.artifact", "-o", "{output}"], 2, "runtime.load: `path` must "),
        (["missing.safetensors", "-o", "{output}"], 2, "load_model: `path` must "),
        (
            ["{artifact}", "-o", "{output}", "--input-size", "3,4,4"],
            2,
            "to_onnx: `input_size` must be left out with a quantised graph, got (3, 4, 4)",
        ),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str],
    status: int,
    line: str,
    artifact: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    paths = {"artifact": artifact, "output": tmp_path / "x.onnx"}
    assert main(["export", *(word.format(**paths) for word in words)]) == status
    captured = capsys.readouterr()
    assert captured.err.startswith(f"mulfree export: error: {line}")
    assert captured.err.count("\n") == 1
    assert not paths["output"].exists()
