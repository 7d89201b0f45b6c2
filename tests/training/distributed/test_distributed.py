"""Two processes that share a batch do what one process does with the whole, in every way."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.run.many_processes import plain, save_and_keep
from tests.training.runs import assert_same, start
from torch import nn

from mulfree import models
from mulfree.cli.main import main
from mulfree.models import config_of, registry
from mulfree.training import load_checkpoint, load_model, model_of, train
from mulfree.training.methods import qat
from mulfree.training.run.callbacks import RunFiles

ROOT = Path(__file__).parents[3]
MODULE = "tests.training.run.many_processes"
WORDS = [
    *("--data.name=synthetic", "--data.classes=3", "--data.image_size=8", "--data.limit=64"),
    *("--data.batch_size=16", "--trainer.epochs=2", "--trainer.threads=1"),
    *("--trainer.accelerator=cpu", "--trainer.precision=64-true", "--trainer.tensorboard=false"),
    *("--trainer.ema=0.5", "--trainer.checkpoint_every=1", "--trainer.progress=none"),
]
NETWORKS = {
    "conv": ["--model.name=plain", "--model.options.norm_logits=false"],
    "adder": [
        *("--model.name=lenet5_bn", "--model.operator=adder2d", "--model.options.width=0.25"),
        *("--trainer.gradient_clip_norm=0.5", "--trainer.sync_batchnorm=true"),
        "--trainer.accumulate_grad_batches=2",
    ],
    # Percentiles of half a batch are not those of the whole.
    "qat": [
        *("--model.name=lenet5_bn", "--model.operator=adder2d", "--model.options.width=0.25"),
        *("--method.name=qat", "--method.observer=minmax", "--method.power_of_two_scales=true"),
        "--trainer.sync_batchnorm=true",
    ],
    # A network without maxima, as among equal numbers rounding decides which is the largest.
    "pkkd": [
        *("--model.name=resnet20", "--model.operator=adder2d", "--model.options.width=0.125"),
        *("--trainer.gradient_clip_norm=0.5", "--trainer.sync_batchnorm=true"),
        "--method.name=pkkd",
    ],
    "early_exit": [
        *("--model.name=early_exit", "--model.options.width=0.125"),
        *("--method.name=early_exit", "--method.alpha=0.3", "--trainer.sync_batchnorm=true"),
    ],
    # Adapters are merged within the run.
    "graft": [
        *("--model.name=resnet20", "--model.operator=conv2d", "--model.options.width=0.125"),
        *("--model.options.blocks=[1, 1, 1]", "--trainer.sync_batchnorm=true"),
        *("--method.name=graft", "--optimizer.name=adamw", "--optimizer.lr=0.001"),
    ],
    # Convolutions: among a few images of a resolution, adder layers amplify rounding.
    "dynamic_resolution": [
        *("--model.name=dynamic_resolution", "--model.operator=conv2d"),
        "--model.options.width=0.125",
        *("--model.options.resolutions=[8,4]", "--method.name=dynamic_resolution"),
        *("--method.phase=finetune", "--method.alpha=0.6", "--trainer.sync_batchnorm=true"),
    ],
    "embedded_kd": [
        *("--model.name=depth_dynamic", "--model.options.network=resnet20"),
        *("--model.options.width=0.125", "--method.name=embedded_kd"),
        '--model.options.subnets={"short": {"blocks": [1, 1, 1]}}',
        *("--model.options.network_options={blocks: [1, 2, 1]}", "--trainer.sync_batchnorm=true"),
    ],
    # The batch norms of the sub-net are left out: no gradient, and no process waits for one.
    "depths": [
        *("--model.name=depth_dynamic", "--model.options.network=resnet20"),
        *("--model.options.width=0.125", "--method.name=supervised"),
        '--model.options.subnets={"short": {"blocks": [1, 1, 1]}}',
        *("--model.options.network_options={blocks: [1, 2, 1]}", "--trainer.sync_batchnorm=true"),
    ],
}
PRETRAINED: dict[str, dict[str, Any]] = {
    "dynamic_resolution": {"width": 0.125, "resolutions": [8, 4]}
}
TEACHER = "teacher.safetensors"
RESUMED = ("adder", "qat")
pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two processors"),
]


def words(network: str, directory: Path, *more: str) -> list[str]:
    if network == "graft":
        # In the folder of all runs.
        more = (*more, f"--method.teacher={directory.parent.parent / TEACHER}")
    return [*WORDS, *NETWORKS[network], f"--trainer.output={directory}", *more]


def start_of(network: str, directory: Path) -> list[str]:
    """Weights that a run starts from, for a method that needs some."""
    if network not in PRETRAINED:
        return []
    file = directory / f"{network}.safetensors"
    if not file.exists():
        torch.manual_seed(0)
        models.save_weights(
            models.create_model(network, num_classes=3, **PRETRAINED[network]), file
        )
    return [f"--model.pretrained={file}"]


def launch(script: Sequence[str], runs: Sequence[Sequence[str]]) -> None:
    process = start([json.dumps(run) for run in runs], script, cwd=ROOT)
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, out + err
    assert out.count("of the test images are right") == len(runs), out + err


def assert_close(one: Path, other: Path) -> None:
    """Equality of what two finished runs have learned and remember of it, up to rounding."""
    first, second = (load_checkpoint(directory / "last.ckpt") for directory in (one, other))
    assert first.step == second.step
    for key in ("state_dict", "optimizer_states"):
        assert_same(first.content[key], second.content[key], key, rtol=1e-9, atol=1e-9)
    for row, same in zip(first.history, second.history, strict=True):
        for name in row.keys() - {"seconds"}:
            # On test images the loss is computed in float32.
            assert row[name] == pytest.approx(same[name], rel=1e-6), name


@pytest.fixture(scope="module", autouse=True)
def _plain_is_a_model() -> Iterator[None]:
    # Families register when they are first asked for, which has to be outside of the copy.
    models.list_models()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
        models.register_model(plain)
        yield


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A single process's runs, called as their network, and `-middle`, in between."""
    directory = tmp_path_factory.mktemp("one")
    teacher = models.create_model("resnet20", num_classes=3, width=0.25, blocks=[1, 1, 1])
    models.save_weights(teacher, directory.parent / TEACHER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFiles, "_save", save_and_keep)
        for network in NETWORKS:
            assert (
                main(["train", *words(network, directory / network, *start_of(network, directory))])
                == 0
            )
    return directory


@pytest.fixture(scope="module")
def two(one: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same runs of two processes with each strategy, and some that go on with one's."""
    directory = tmp_path_factory.mktemp("two")
    ways = ("ddp", "fsdp")
    runs = [
        words(
            network,
            directory / f"{network}-{way}",
            f"--trainer.strategy={way}",
            *start_of(network, one),
        )
        for network in NETWORKS
        for way in ways
    ]
    for network in RESUMED:
        resumed = directory / f"one-{network}-fsdp"
        shutil.copytree(one / f"{network}-middle", resumed)
        runs.append(["--resume", str(resumed), "--trainer.strategy=fsdp"])
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", MODULE)
    launch(torchrun, runs)
    return directory


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
@pytest.mark.parametrize("network", NETWORKS)
def test_two_processes_equal_one(one: Path, two: Path, network: str, way: str) -> None:
    assert_close(one / network, two / f"{network}-{way}")


def test_processes_that_lightning_starts(one: Path, tmp_path: Path) -> None:
    launch(("-m", MODULE), [words("conv", tmp_path / "run", "--trainer.devices=2")])
    assert_close(one / "conv", tmp_path / "run")


def test_what_was_divided_is_written_in_parts_and_read_like_a_file(two: Path) -> None:
    run = two / "adder-fsdp"
    parts = ["content.ckpt", "shard-0.safetensors", "shard-1.safetensors"]
    for name in ("best.ckpt", "last.ckpt"):
        assert sorted(path.name for path in (run / name).iterdir()) == parts
    assert not list(run.glob(".*"))
    sizes = [(run / "last.ckpt" / part).stat().st_size for part in parts[1:]]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.1)

    from_parts, from_weights = load_model(run / "last.ckpt"), load_model(run)
    assert config_of(from_parts) == config_of(from_weights)
    assert {type(m) for m in from_weights.modules()} >= {nn.BatchNorm2d}
    assert_same(from_parts.state_dict(), from_weights.state_dict())


@pytest.mark.parametrize("verb", ["evaluate", "profile"])
def test_verbs_take_a_divided_checkpoint(
    two: Path, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, str(two / "adder-fsdp" / "last.ckpt")]) == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize("network", RESUMED)
def test_a_run_goes_on_with_more_processes_and_another_strategy(
    one: Path, two: Path, network: str
) -> None:
    resumed = two / f"one-{network}-fsdp"
    assert (resumed / "last.ckpt").is_dir()
    assert_close(one / network, resumed)


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
@pytest.mark.parametrize("network", RESUMED)
def test_a_run_goes_on_with_fewer_processes(
    one: Path, two: Path, network: str, way: str, tmp_path: Path
) -> None:
    shutil.copytree(two / f"{network}-{way}-middle", tmp_path / "run")
    middle = load_checkpoint(tmp_path / "run" / "last.ckpt")
    assert middle.step == 3
    assert middle.path.is_dir() == (way == "fsdp")
    assert middle.config.trainer.strategy == way
    settings = replace(middle.config.trainer, output=None)
    assert train(replace(middle.config, trainer=settings), middle).finished
    assert (tmp_path / "run" / "last.ckpt").is_file()
    assert not list((tmp_path / "run").glob(".*"))
    assert_close(one / network, tmp_path / "run")


def test_a_divided_checkpoint_holds_the_ranges_of_its_training(two: Path) -> None:
    checkpoint = load_checkpoint(two / "qat-fsdp" / "last.ckpt")
    ranges = qat.trained_ranges(checkpoint, model_of(checkpoint), (3, 8, 8))
    assert ranges is not None
    assert list(ranges)[1:] == ["relu1", "relu2", "relu3", "relu4"]
