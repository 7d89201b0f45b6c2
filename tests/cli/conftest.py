from __future__ import annotations

from pathlib import Path

import pytest
from tests.training.runs import make_config

from mulfree.training import train


@pytest.fixture(scope="package")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished run."""
    directory = tmp_path_factory.mktemp("run")
    train(make_config(directory))
    return directory
