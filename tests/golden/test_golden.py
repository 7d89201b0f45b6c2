"""Files and results of commit 8eb048a, which made them with make.py, are still read and given."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from mulfree import export, models, quantization, runtime, training
from mulfree.errors import ArtifactError
from mulfree.runtime import artifact
from mulfree.runtime.session import Backend
from mulfree.training.run import sealed

DATA = Path(__file__).parent / "data"
Arrays = dict[str, NDArray[Any]]
GRAPHS = sorted(path.stem for path in DATA.glob("*.onnx"))
NETWORKS = sorted(path.stem for path in DATA.glob("*.safetensors"))


@pytest.fixture(scope="module")
def graphs() -> Arrays:
    with np.load(DATA / "graphs.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def networks() -> Arrays:
    with np.load(DATA / "networks.npz") as arrays:
        return dict(arrays)


def test_there_are_files() -> None:
    assert len(GRAPHS) == 10
    assert len(NETWORKS) == 10


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("name", GRAPHS)
def test_integers(name: str, backend: Backend, graphs: Arrays) -> None:
    session = runtime.Session(DATA / f"{name}.mulfree", backend=backend)
    np.testing.assert_array_equal(session.run(graphs[f"{name}.pixels"]), graphs[f"{name}.logits"])


@pytest.mark.parametrize("name", GRAPHS)
def test_onnx_files(name: str, tmp_path: Path) -> None:
    export.to_onnx(runtime.load(DATA / f"{name}.mulfree"), tmp_path / "new.onnx")
    new, old = onnx.load(tmp_path / "new.onnx"), onnx.load(DATA / f"{name}.onnx")
    assert new.graph == old.graph
    assert new.metadata_props == old.metadata_props


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_of_weights(name: str, networks: Arrays) -> None:
    model = models.load_model(DATA / f"{name}.safetensors")
    with torch.no_grad():
        logits = model(torch.from_numpy(networks[f"{name}.images"])).numpy()
    old = networks[f"{name}.logits"]
    # Instruction sets add in different orders.
    np.testing.assert_allclose(logits, old, rtol=0, atol=1e-4 * np.abs(old).max())


@pytest.mark.parametrize("name", NETWORKS)
def test_integers_of_networks(name: str, networks: Arrays) -> None:
    images, old = networks[f"{name}.images"], networks[f"{name}.integers"]
    session = runtime.Session(DATA / f"{name}.mulfree")
    np.testing.assert_array_equal(session.run(images), old)
    model = models.load_model(DATA / f"{name}.safetensors")
    graph = quantization.quantize(model, [torch.from_numpy(images)], 8)
    # Ranges come from floating-point sums, whose last bit depends on the instruction set.
    assert [node.op for node in graph.nodes] == [node.op for node in session.graph.nodes]
    new = runtime.Session(graph).run(images)
    np.testing.assert_allclose(new, old, rtol=0, atol=0.02 * np.abs(old).max())


@pytest.mark.parametrize("name", ["select", "conv2d_float", "linear_float"])
def test_removed_nodes_are_refused(name: str) -> None:
    line = (
        rf"nodes\[[01]\].op` must be a node of this version, got '{name}', which earlier versions"
    )
    with pytest.raises(ArtifactError, match=line):
        runtime.load(DATA / f"{name}.mulfree")


def test_artifacts_are_written_as_they_were() -> None:
    for name in (*GRAPHS, *NETWORKS):
        content = (DATA / f"{name}.mulfree").read_bytes()
        graph = artifact.from_bytes(content)
        again = artifact.from_bytes(artifact.to_bytes(graph))
        assert artifact.to_bytes(again) == artifact.to_bytes(graph)
        # The tensors, which end the file, lie in it as they did.
        length = int.from_bytes(content[:8], "little") + 8
        assert artifact.to_bytes(graph).endswith(content[length:])


# Options of the run that had other names at that commit.
OPTIONS = {
    "optimizer": {"eta": "local_lr_eta"},
    "schedule": {"interval": "per", "peak": "pct_start", "floor": "min_lr_ratio"},
    "trainer": {"accumulate": "accumulate_grad_batches", "clip_norm": "gradient_clip_norm"},
}


def translate(path: Path) -> None:
    """Rewrite the options of a checkpoint by their names of today."""
    content = sealed.from_bytes(path.read_bytes())
    config = content["mulfree"]["config"]
    config["p_annealing"] = config.pop("norm")
    for section, names in OPTIONS.items():
        config[section] = {names.get(key, key): v for key, v in config[section].items()}
    path.write_bytes(sealed.to_bytes(content))


def test_a_run_goes_on(tmp_path: Path) -> None:
    shutil.copytree(DATA / "run", tmp_path / "run")
    with pytest.raises(ArtifactError, match=r"unknown option .*; it is now "):
        training.load_checkpoint(tmp_path / "run" / "last.ckpt")
    translate(tmp_path / "run" / "last.ckpt")
    checkpoint = training.load_checkpoint(tmp_path / "run" / "last.ckpt")
    assert [row["epoch"] for row in checkpoint.history] == [1]
    result = training.train(checkpoint.config, checkpoint)
    assert len(result.history) == 2
    new = models.load_model(tmp_path / "run" / "model.safetensors").state_dict()
    old = models.load_model(DATA / "run" / "model.safetensors").state_dict()
    assert new.keys() == old.keys()
    for name, tensor in old.items():
        torch.testing.assert_close(new[name], tensor, rtol=1e-3, atol=1e-4)
