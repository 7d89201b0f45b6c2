from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mulfree.bench import device
from mulfree.bench.device import captured, clock_of, computing_in

CPU = torch.device("cpu")


def test_the_clock_of_a_gpu_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert clock_of(CPU) is time.perf_counter
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    gpu = torch.device("cuda", 0)
    assert clock_of(gpu)() <= time.perf_counter()
    assert waited == [gpu]


def test_the_clock_rate_is_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device.sm_clock_hz(CPU) is None
    for told, expected in ((1980, 1.98e9), (None, None)):
        monkeypatch.setattr(device, "gpu", lambda told=told: {"sm_clock_mhz": told})
        assert device.sm_clock_hz(torch.device("cuda")) == expected


def tf32() -> tuple[bool, bool]:
    backends: Any = torch.backends
    return backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32


@pytest.mark.filterwarnings("ignore:Please use the new API settings")
def test_tf32_is_as_asked_for_and_then_as_before() -> None:
    before = tf32()
    with computing_in("tf32"):
        assert tf32() == (True, True)
        with computing_in("fp32"):
            assert tf32() == (False, False)
        assert tf32() == (True, True)
    assert tf32() == before


def test_algorithms_are_tried_and_then_as_before() -> None:
    before = torch.backends.cudnn.benchmark
    with device.tuned_convolutions():
        assert torch.backends.cudnn.benchmark
    assert torch.backends.cudnn.benchmark == before


def test_without_graphs_a_function_is_itself() -> None:
    run = SimpleNamespace
    assert captured(lambda: run, CPU) is run


@pytest.mark.gpu
def test_a_graph_replays_forward_and_backward() -> None:
    x = torch.randn(4, 3, device="cuda", requires_grad=True)
    out = torch.zeros(4, 3, device="cuda")

    def make() -> Any:
        y = x.square().sum()
        return lambda: out.add_(torch.autograd.grad(y, x, retain_graph=True)[0])

    replay = captured(make, torch.device("cuda"))
    out.zero_()
    replay()
    replay()
    torch.testing.assert_close(out, 4 * x.detach())
