from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

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


CARD = SimpleNamespace(
    name="NVIDIA H200",
    uuid="0-1",
    major=9,
    minor=0,
    multi_processor_count=132,
    total_memory=139 * 2**30,
)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    """One CUDA device, and no tool of its driver."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda: CARD)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91300)
    monkeypatch.setattr(environment, "_output", lambda *command: None)


FACTS = {
    "name": "NVIDIA H200",
    "devices": 2,
    "capability": "9.0",
    "multiprocessors": 132,
    "memory_bytes": 139 * 2**30,
    "driver": None,
    "cuda": "13.0",
    "cudnn": 91300,
    "sm_clock_mhz": None,
    "memory_clock_mhz": None,
}


@pytest.mark.usefixtures("card")
def test_a_gpu_as_torch_knows_it() -> None:
    assert environment.gpu() == FACTS


@pytest.mark.usefixtures("card")
def test_a_gpu_as_its_driver_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def output(*command: str) -> str:
        asked.append(command)
        return "580.95, 1985, 3201"

    monkeypatch.setattr(environment, "_output", output)
    told = {"driver": "580.95", "sm_clock_mhz": 1985, "memory_clock_mhz": 3201}
    assert environment.gpu() == FACTS | told
    assert asked == [
        (
            "nvidia-smi",
            "--id=GPU-0-1",
            "--query-gpu=driver_version,clocks.max.sm,clocks.max.memory",
            "--format=csv,noheader,nounits",
        )
    ]
    monkeypatch.setattr(environment, "_output", lambda *command: "580.95, [N/A], [N/A]")
    assert environment.gpu() == FACTS | {"driver": "580.95"}


def test_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert environment.environment()["gpu"] is None


@pytest.mark.gpu
def test_the_gpu_of_this_machine() -> None:
    facts = environment.gpu()
    assert facts is not None
    assert facts["name"] == torch.cuda.get_device_name()
    assert facts["sm_clock_mhz"] > 500
    json.dumps(facts)


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
