"""Latency of float and quantised networks, timed in turns."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from mulfree.bench.candidate_process import session_runner, torch_runner
from mulfree.bench.timing import Spread, interleave
from mulfree.cost import Latency
from mulfree.environment import commit, cpu_model
from mulfree.runtime import Graph

# Idle threads of the previous network stop spinning within this time.
PAUSE_SECONDS = 0.02


def measure_latency(
    networks: Mapping[str, tuple[nn.Module | Graph, Sequence[int]]],
    *,
    threads: int = 1,
    rounds: int = 21,
) -> Latency:
    """Time networks on one random image each, in turns, on the CPU.

    Quantised networks run in the runtime from pixels, float networks in PyTorch: channels_last, in
    evaluation mode and `torch.inference_mode`.

    Args:
        networks: Network and shape of one image, C, H, W, by name.
        threads: Threads of one run.
        rounds: Samples of each; their median is the latency.
    """
    before = torch.get_num_threads()
    try:
        runs = {
            name: session_runner(network, (1, *size), threads)
            if isinstance(network, Graph)
            # The layout of the caller's network stays.
            else torch_runner(copy.deepcopy(network).cpu().eval(), (1, *size), threads)
            for name, (network, size) in networks.items()
        }
        samples = interleave(runs, rounds=rounds, pause=PAUSE_SECONDS)
    finally:
        torch.set_num_threads(before)
    return Latency(
        seconds={name: Spread.of(seconds).median for name, seconds in samples.items()},
        processor=cpu_model(),
        threads=threads,
        rounds=rounds,
        commit=commit(),
    )
