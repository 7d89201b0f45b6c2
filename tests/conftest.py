"""Fixtures that every test gets."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from torch.utils import _device

# Without a GPU the Triton kernels run in its interpreter, which is chosen when they are imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# The processes of pytest-xdist share the cores.
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)

# torch remembers its constructors when a device context is first used: that has to be before one
# of them is replaced below, or the replaced one would be forgotten for the rest of the process.
_device._device_constructors()


# No test is timed: on a busy machine the first examples alone can exceed Hypothesis's limits.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# Markers of tests that are expensive; all others are marked `fast`, and `pytest` runs those alone.
LANES = ("interpreter", "compile", "processes", "sanitizers", "cross", "fuzz", "slow")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the fast tests; skip the tests for a GPU if there is none."""
    for item in items:
        if not any(item.get_closest_marker(lane) for lane in LANES):
            item.add_marker("fast")
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the objects of the imported modules, which stay to the end, from the collector."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill what `torch.empty` returns with NaN, so that an output left unwritten cannot pass."""

    def poisoned(make: Any) -> Any:
        def fill(*args: Any, **kwargs: Any) -> torch.Tensor:
            tensor: torch.Tensor = make(*args, **kwargs)
            if tensor.is_floating_point() and not tensor.is_meta:
                with torch.no_grad():
                    tensor.fill_(float("nan"))
            return tensor

        return fill

    monkeypatch.setattr(torch, "empty", poisoned(torch.empty))


@pytest.fixture(autouse=True)
def _plain_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the numbers of a run's curves in place of the plot, which takes longer than the run."""

    def write(path: Path, history: object, *_: object) -> None:
        path.write_text(repr(history))

    results = sys.modules.get("mulfree.training.run.results")
    if results is not None:
        monkeypatch.setattr(results, "write_curves", write)
