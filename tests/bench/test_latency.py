from __future__ import annotations

import torch
from tests.runtime.graphs import tiny
from torch import nn

from mulfree.bench.latency import measure_latency
from mulfree.environment import cpu_model


def test_float_and_quantised_networks_in_turns() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    threads = torch.get_num_threads()
    size = (1, 3, 3)
    latency = measure_latency(
        {"float": (model, size), "integers": (tiny(), size)}, threads=1, rounds=2
    )
    assert list(latency.seconds) == ["float", "integers"]
    assert all(0 < seconds < 60 for seconds in latency.seconds.values())
    assert (latency.threads, latency.rounds, latency.processor) == (1, 2, cpu_model())
    # The caller's network and settings stay.
    assert model.training
    assert int(model[1].num_batches_tracked) == 0  # type: ignore[arg-type]
    assert torch.get_num_threads() == threads
