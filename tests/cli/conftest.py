from __future__ import annotations

from pathlib import Path

import pytest
from tests.training.runs import make_config
from torch import nn

from mulfree.training import train


@pytest.fixture(scope="package")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished run."""
    directory = tmp_path_factory.mktemp("run")
    train(make_config(directory))
    return directory


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """Float networks that are exported, of which no file is written."""
    networks: list[nn.Module] = []

    def write(network: nn.Module, *_: object, **__: object) -> str:
        networks.append(network)
        return "written"

    monkeypatch.setattr("mulfree.export.onnx.write", write)
    return networks
