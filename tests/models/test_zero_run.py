from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mulfree.errors import BackendUnavailableError, ConfigError, ShapeError
from mulfree.models.zero_run import Observer, zero_run


class Calls(Observer):
    def __init__(self) -> None:
        super().__init__()
        self.modules: list[tuple[str, int]] = []
        self.operations: list[tuple[str, str | None]] = []

    def leave(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        self.modules.append((type(module).__name__, len(self.stack)))

    def operation(self, name: str, args: tuple[Any, ...], output: Any) -> None:
        self.operations.append((name, self.function))


class Careless(nn.Module):
    """Changes everything that can be changed in a forward, and looks at values if asked to."""

    def __init__(self, values: bool) -> None:
        super().__init__()
        self.values = values
        self.linear = nn.Linear(4, 2)
        self.norm = nn.BatchNorm1d(2)
        self.calls = 0
        self.log: list[Tensor] = []
        self.cache: dict[str, Tensor] = {}
        self.register_buffer("seen", torch.zeros(()))
        self.seen: Tensor

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        self.new = images
        self.log.append(images)
        self.cache["images"] = images
        self.seen += 1
        self.norm.train()
        random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
        features = self.norm(self.linear.forward(images.expand(3, 4)))
        assert isinstance(features, Tensor)
        assert not torch.is_grad_enabled()
        if self.values:
            assert float(images.sum()) == 0
        return features


@pytest.mark.parametrize("values", [False, True])
def test_everything_is_afterwards_as_it_was(values: bool) -> None:
    model = Careless(values)
    model.norm.eval()
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index]  # noqa: NPY002
    attributes = {name: dict(vars(module)) for name, module in model.named_modules()}
    calls = zero_run("f", model, (4,), Calls)
    assert calls.modules == [("Linear", 1), ("BatchNorm1d", 1), ("Careless", 0)]
    assert {name: vars(module) for name, module in model.named_modules()} == attributes
    assert (model.log, model.cache, model.calls) == ([], {}, 0)
    assert (float(model.seen), float(model.norm.num_batches_tracked or 0)) == (0, 0)
    assert model.norm.running_mean is not None
    assert model.norm.running_mean.tolist() == [0, 0]
    assert (model.training, model.norm.training) == (True, False)
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]  # type: ignore[index]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])


def test_operations_go_with_the_function_that_was_called() -> None:
    class Functions(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.einsum("ni,mi->nm", images, images.expand(2, 4)) @ images.expand(2, 4)

    calls = zero_run("f", Functions(), (4,), Calls)
    assert ("mm", "matmul") in calls.operations
    assert ("bmm", "einsum") in calls.operations


def test_nothing_is_compiled() -> None:
    def backend(*_: object) -> object:
        raise AssertionError("compiled")

    inner: Any = torch.compile(nn.Linear(4, 2), backend=backend)
    calls = zero_run("f", nn.Sequential(inner), (4,), Calls)
    assert ("Linear", 2) in calls.modules


@pytest.mark.parametrize("size", [(), (3, 0), (3, 8.0), "wide", 32, None])
def test_a_size_that_is_none(size: Any) -> None:
    with pytest.raises(ShapeError, match=r"f: `input_size` must be the positive sizes of one inp"):
        zero_run("f", nn.Linear(4, 2), size, Calls)


def test_a_model_without_parameters_yet() -> None:
    with pytest.raises(ConfigError, match=r"f: `model` must be initialised, got a lazy parameter"):
        zero_run("f", nn.LazyLinear(2), (4,), Calls)


def test_a_missing_backend_is_not_blamed_on_the_size() -> None:
    class Unavailable(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise BackendUnavailableError("kernels must be built")

    with pytest.raises(BackendUnavailableError, match="kernels must be built"):
        zero_run("f", Unavailable(), (3,), Calls)
