from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import loader as benchmark
from mulfree.data import BatchLoader, ImageSet

CPU = torch.device("cpu")


def test_share_takes_turns_between_a_fixed_batch_and_the_loader() -> None:
    seen: list[int] = []
    images = ImageSet(torch.zeros(64, 1, 2, 2, dtype=torch.uint8), torch.arange(64))
    loader = BatchLoader(images, 1, train=True)

    def make_step() -> benchmark.Step:
        return lambda images, labels: seen.append(int(labels))

    share = benchmark.loader_share(make_step, loader, 8)
    samples = [seen[start : start + 8] for start in range(0, len(seen), 8)]
    assert len(samples) == 2 * (benchmark.ROUNDS + 1)
    fixed = [sample for sample in samples if sample == samples[0]]
    loaded = [number for sample in samples if sample != samples[0] for number in sample]
    assert len(fixed) == benchmark.ROUNDS + 1
    assert fixed[0] == [fixed[0][0]] * 8
    assert sorted({*loaded[:63], fixed[0][0]}) == list(range(64))  # the first epoch
    assert share["ratio_q1"] <= share["ratio"] <= share["ratio_q3"]
    assert share["share"] == pytest.approx(1 - 1 / share["ratio"], abs=1e-3)


def test_counts_what_an_accelerator_is_asked_for() -> None:
    given = torch.zeros(3, device="meta")
    with benchmark.Counts() as counts:  # type: ignore[no-untyped-call]
        torch.zeros(3) + 1  # not asked of it
        given.view(3, 1).expand(3, 2)  # nothing to do
        (given + 1).mul_(2)
        torch.ones(4).to("meta")
    assert (counts.operations, counts.copies, counts.waits) == (2, 1, 0)


def test_measures_everything(tmp_path: Path) -> None:
    results = benchmark.measure(CPU, tmp_path, scale=64)
    assert list(results) == [
        "cifar10, in memory",
        "imagenet, in a file, 0 ahead",
        "imagenet, in a file, 2 ahead",
    ]
    for figures in results.values():
        assert figures["images_per_s"] > 0
        assert figures["host_us_per_batch"] > 0
        assert figures["batch"]["waits"] == 0
    assert results["cifar10, in memory"]["batch"]["copies"] == 0


def test_the_step_learns() -> None:
    torch.manual_seed(0)
    step = benchmark.resnet20_step(CPU)
    step(torch.zeros(2, 3, 32, 32), torch.tensor([0, 1]))
