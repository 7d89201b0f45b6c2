"""Devices of a run, here of a machine that only seems to have them."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import pytest
import torch
from tests.training.runs import make_config

from mulfree.errors import ConfigError
from mulfree.training.run.devices import place_run


def seem(
    monkeypatch: pytest.MonkeyPatch,
    gpus: int = 0,
    capability: tuple[int, int] = (9, 0),
    cuda: str | None = "13.0",
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")


CUDA = {"accelerator": "cuda"}


@pytest.mark.parametrize(
    ("machine", "trainer", "message"),
    [
        ({"cuda": None}, CUDA, "accelerator` must be cpu with a torch .* without CUDA, got cuda"),
        ({}, CUDA, "accelerator` must be cpu on a machine without a usable GPU, got cuda"),
        ({}, {"devices": 9}, "devices` must be at most the 8 processors of this machine, got 9"),
        ({"gpus": 2}, {"accelerator": "auto", "devices": 3}, "devices` .* the 2 CUDA devices of"),
        (
            {"gpus": 1, "capability": (7, 5)},
            {"accelerator": "auto"},
            "accelerator` must be cpu for adder2d here, as the GPU kernels need compute "
            "capability 8.0, GPU 0 has 7.5, got auto",
        ),
        ({}, {"precision": "16-mixed"}, "precision` must be 32-true, .* on a CPU, got 16-mixed"),
    ],
)
def test_devices_that_are_not_there(
    machine: dict[str, Any], trainer: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seem(monkeypatch, **machine)
    with pytest.raises(ConfigError, match=f"`trainer.{message}") as caught:
        place_run(make_config(trainer=trainer))
    assert "\n" not in str(caught.value)


def test_adders_on_a_gpu_need_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    seem(monkeypatch, 1)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = r"must be cpu for adder2d here, as the GPU kernels need triton: .*\[gpu\], got cuda"
    with pytest.raises(ConfigError, match=message):
        place_run(make_config(trainer={"accelerator": "cuda"}))


def test_a_batch_must_be_divisible(monkeypatch: pytest.MonkeyPatch) -> None:
    seem(monkeypatch)
    pattern = "`data.batch_size` must be a multiple of the 3 processes that share it, got 16"
    with pytest.raises(ConfigError, match=pattern):
        place_run(make_config(trainer={"devices": 3}))


@pytest.mark.parametrize(
    ("capability", "operator", "trainer", "device"),
    [
        ((8, 0), "adder2d", {"accelerator": "auto"}, "cuda:0"),
        ((7, 5), "conv2d", CUDA, "cuda:0"),
        ((7, 5), "adder2d", {**CUDA, "precision": "64-true"}, "cuda:0"),
        ((7, 5), "adder2d", {}, "cpu"),
    ],
)
def test_devices_that_are(
    capability: tuple[int, int],
    operator: str,
    trainer: dict[str, str],
    device: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seem(monkeypatch, 1, capability)
    config = make_config(trainer=trainer, model={"operator": operator})
    assert place_run(config).device == torch.device(device)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("LOCAL_WORLD_SIZE", "0", r"must be a whole number >= 1, got '0'$"),
        ("WORLD_SIZE", "0", r"must be a whole number >= 1, got '0'$"),
        ("WORLD_SIZE", "9" * 5000, r"must be a whole number >= 1, got '9+...9+'$"),
        ("RANK", "\u0663", r"must be a whole number >= 0, got '\u0663'$"),
        ("RANK", "7", r"must be below the 1 processes of LOCAL_WORLD_SIZE and WORLD_SIZE, got 7$"),
        ("LOCAL_RANK", "1", r"must be below the 1 processes of LOCAL_WORLD_SIZE and .*, got 1$"),
    ],
)
def test_variables_of_a_launcher_are_checked(
    name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"^train: environment variable `{name}` {message}"):
        place_run(make_config())
