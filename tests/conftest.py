"""Fixtures that every test gets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils import _device

# torch remembers its constructors when a device context is first used: that has to be before one
# of them is replaced below, or the replaced one would be forgotten for the rest of the process.
_device._device_constructors()


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
