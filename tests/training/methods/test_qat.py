from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.training.runs import make_config
from torch import distributed
from torch.nn import functional

from mulfree import data, models
from mulfree.errors import ArtifactError, ConfigError
from mulfree.quantization import quantize
from mulfree.runtime import reference
from mulfree.training import Checkpoint, Result, load_checkpoint, load_model, train
from mulfree.training.methods import qat, supervised

QAT = {"name": "qat", "bits": 4}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A run of four epochs."""
    directory = tmp_path_factory.mktemp("qat")
    return train(make_config(directory, method=QAT, trainer={"epochs": 4}))


def task(**options: Any) -> qat.Method:
    torch.manual_seed(0)
    model = models.create_model("lenet5_bn", operator="adder2d", width=0.25)
    return qat.Method(model, qat.Config(**options))


def integer_loss(run: Result, bits: int, *, shift_only: bool) -> float:
    """Cross entropy of the integer network of a run on the test images."""
    checkpoint = load_checkpoint(run.directory / "last.ckpt")
    model = load_model(run.directory)
    ranges = qat.trained_ranges(checkpoint, model, (3, 8, 8))
    assert ranges is not None
    assert list(ranges)[1:] == ["relu1", "relu2", "relu3", "relu4"]
    assert all(low <= 0 < high for low, high in ranges.values())
    splits = data.load(checkpoint.config.data)
    loader = data.BatchLoader(splits.test, 64, train=False, transform=splits.test_transform)
    images = torch.cat([images for images, _ in loader])
    # The images make no difference.
    graph = quantize(model, [images[:1]], bits, ranges=ranges, power_of_two_scales=shift_only)
    logits = torch.from_numpy(reference.run(graph, images.numpy()))
    return float(functional.cross_entropy(logits, splits.test.labels))


def test_what_is_tested_is_the_integer_network(run: Result) -> None:
    simulated = run.metrics["test_loss"]
    assert integer_loss(run, 4, shift_only=False) == pytest.approx(simulated, rel=3e-4)
    assert integer_loss(run, 5, shift_only=False) != pytest.approx(simulated, rel=3e-4)


def test_shifts_are_trained_for(tmp_path: Path) -> None:
    options = {"name": "qat", "bits": 8, "power_of_two_scales": True}
    run = train(make_config(tmp_path, method=options, trainer={"epochs": 12}))
    simulated = run.metrics["test_loss"]
    # The first layer's weights have wider steps in integers.
    assert integer_loss(run, 8, shift_only=True) == pytest.approx(simulated, rel=5e-3)
    assert integer_loss(run, 8, shift_only=False) != pytest.approx(simulated, rel=5e-3)


def test_ranges_move_with_the_batches_in_training_alone() -> None:
    made = task(momentum=0.25)
    labels = torch.zeros(8, dtype=torch.int64)
    batches = [torch.randn(8, 3, 8, 8) * scale for scale in (1.0, 3.0)]
    assert made.ranges.isnan().all()
    made((batches[0], labels))
    first = made.ranges.clone()
    assert first[0].tolist() == [float(batches[0].min()), float(batches[0].max())]
    made((batches[1], labels))
    expected = 0.75 * first[0, 1] + 0.25 * batches[1].max()
    torch.testing.assert_close(made.ranges[0, 1], expected)
    before = made.ranges.clone()
    made.eval()
    made.test(made.model, (10 * batches[1], labels))
    assert torch.equal(made.ranges, before)


@pytest.mark.parametrize(
    ("observer", "expected"), [("minmax", [-2.0, 3.0]), ("percentile", [-1.5, 2.5])]
)
def test_ranges_are_those_of_all_processes(
    observer: str, expected: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hull of what they see; the mean where each leaves numbers out."""
    others = torch.tensor([-2.0, 2.0])

    def all_reduce(here: torch.Tensor, op: Any = distributed.ReduceOp.SUM) -> None:
        if op == distributed.ReduceOp.MAX:
            here.copy_(here.maximum(others * torch.tensor([-1.0, 1.0])))
        else:
            here += others

    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_reduce", all_reduce)
    monkeypatch.setattr(qat, "observe", lambda observer, bits, x: (x.min(), x.max()))
    made = task(observer=observer)
    images, labels = torch.linspace(-1.0, 3.0, 4 * 3 * 8 * 8).view(4, 3, 8, 8), torch.arange(4)
    made((images, labels))
    assert made.ranges[0].tolist() == expected
    # Nothing is sent while it is tested, where one process may have more batches than another.
    monkeypatch.setattr(distributed, "all_reduce", None)
    made.test(made.eval().model, (9 * images, labels))
    assert made.ranges[0].tolist() == expected


def test_a_part_of_the_numbers_is_seen_from_all_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qat, "_MAX_SAMPLED", 96)
    made = task(observer="minmax")
    images = torch.zeros(1, 3, 32, 32)
    images[..., 7] = 9.0
    made.eval()
    made((images, torch.zeros(1, dtype=torch.int64)))
    assert made.ranges[0].tolist() == [0.0, 9.0]


def test_images_of_another_size_have_ranges_of_their_own() -> None:
    made = task(bits=8)
    labels = torch.zeros(2, dtype=torch.int64)
    made((torch.randn(2, 3, 32, 32), labels))
    assert made.ranges.shape == (5, 2)
    # Images of 72 pixels are averaged, which is one value more.
    made((torch.randn(2, 3, 72, 72), labels))
    assert made.ranges.shape == (6, 2)
    assert made.ranges.isfinite().all()


@pytest.mark.usefixtures("mesh")
@pytest.mark.parametrize("observer", ["minmax", "percentile"])
def test_compiled_steps_of_a_group_are_the_same(observer: str) -> None:
    made = task(observer=observer)
    other = copy.deepcopy(made)
    # Of the size that the model is made for, whose steps are known beforehand.
    batch = torch.randn(4, 3, 28, 28), torch.arange(4)
    compiled = torch.compile(made, fullgraph=True, dynamic=False, backend="eager")
    assert torch.equal(compiled(batch)["loss"], other(batch)["loss"])
    assert torch.equal(made.ranges, other.ranges)


@pytest.mark.parametrize(
    "trainer", [{"precision": "bf16-mixed"}, {"precision": "64-true"}, {"ema": 0.9}], ids=str
)
def test_other_precisions_and_averages(trainer: dict[str, Any], tmp_path: Path) -> None:
    result = train(make_config(tmp_path, method=QAT, trainer={"epochs": 1, **trainer}))
    assert result.metrics["test_loss"] < 1.5
    checkpoint = load_checkpoint(tmp_path / "last.ckpt")
    assert qat.trained_ranges(checkpoint, load_model(tmp_path), (3, 8, 8)) is not None


def test_it_starts_from_a_trained_network(run: Result, tmp_path: Path) -> None:
    start = str(run.directory)
    result = train(
        make_config(
            tmp_path,
            method={**QAT, "init_from": start},
            optimizer={"lr": 1e-9},
            trainer={"epochs": 1},
        )
    )
    ours, others = load_model(result.directory), load_model(start)
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter, others.get_parameter(name), atol=1e-5, rtol=1e-5)


def test_another_network_to_start_from(run: Result, tmp_path: Path) -> None:
    method = {**QAT, "init_from": str(run.directory)}
    with pytest.raises(ConfigError, match=r"qat: `init_from` must be a network with the options"):
        train(make_config(tmp_path, method=method, model={"options": {"width": 0.5}}))
    method["init_from"] = str(tmp_path / "nothing.ckpt")
    with pytest.raises(ArtifactError, match=r"nothing\.ckpt"):
        train(make_config(tmp_path, method=method))


def test_ranges_of_a_checkpoint(run: Result) -> None:
    checkpoint = load_checkpoint(run.directory / "last.ckpt")
    model = load_model(run.directory)
    other = replace(checkpoint.config, method=supervised.Config())
    assert qat.trained_ranges(replace(checkpoint, config=other), model, (3, 8, 8)) is None
    for broken in (None, torch.zeros(2, 2), torch.full((5, 2), np.nan)):
        state = {**checkpoint.content["state_dict"], "task._extra_state": broken}
        damaged: Checkpoint = replace(checkpoint, content={"state_dict": state})
        with pytest.raises(ArtifactError, match=r"must hold 5 ranges of images \[3, 8, 8\], got"):
            qat.trained_ranges(damaged, model, (3, 8, 8))
